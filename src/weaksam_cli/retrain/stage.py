"""`weaksam retrain`: train a detector on pseudo ground truth, then detect with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from weaksam_cli.artifacts.digest import of_json
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.data.detections import RESULTS
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.detectors import per_image_detections
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.retrain.both import BothSettings, both_step
from weaksam_cli.retrain.choice import ChoiceSettings, choice_step
from weaksam_cli.retrain.settings import DetectorSettings, InferenceSettings, read_network

STAGE = Stage("retrain", 3, "retrain", "detections/{split}.json", RESULTS)
MODEL: Final = Schema("weaksam/detectron2-detector", 1, ())
WITHOUT_FILE: Final = ("imagenet", "random")
"""Initial weights that need no file."""


def train_then_detect(
    settings: DetectorSettings,
    inference: InferenceSettings,
    together: BothSettings,
    choosing: ChoiceSettings,
    context: Context,
    split: str,
) -> Iterator[Step]:
    """The steps of a method on detectron2: the model, from the training split; detections of this split, and those of both
    detectors together; the choice.

    Raises:
        UserError: the initial weights are not found.
    """
    train, run = context.train_split(), context.run
    inputs = {"pgt": run.input("pgt", train), "data": run.input("data", train)}
    weights = None
    if settings.backbone.weights not in WITHOUT_FILE:
        weights = inputs["weights"] = context.weights.require(settings.backbone.weights)
    initial = settings.initial_file()
    if initial is not None:
        inputs["initial-weights"] = context.weights.require(initial)
    model = run.folder("retrain") / "model.safetensors"

    def fit(job: Job) -> Outcome:
        from weaksam_cli.retrain.detector import fit_detector

        whole = inputs.get("initial-weights")
        return fit_detector(settings, inputs["pgt"], context.split(train), weights, job, initial=whole)

    network = InputDigest(
        path=f"networks/{settings.network}.yaml", sha256=of_json(read_network(settings.network)), file=False
    )
    given = {"network": network}
    yield Step(model, MODEL, train, settings, inputs, fit, "the retrained detector", given, joint=True)
    detections = detection_step(inference, model, context, split)
    yield detections
    both = both_step(together, detections.path, context, split)
    if both is not None:
        yield both
    choice = choice_step(choosing, detections.path, both.path if both else None, context, split)
    if choice is not None:
        yield choice


def detection_step(inference: InferenceSettings, model: Path, context: Context, split: str) -> Step:
    """Detections of a split by a trained detector, whatever its method: its file tells its network."""

    def work(context: Context) -> PerImage:
        from weaksam_cli.retrain.detection import DetectImages

        device, images = context.worker_device(), context.split(split)
        detector = DetectImages(model, inference.inference, images, device)
        return per_image_detections(images, images.read().keys, detector, device=device)

    return Step(
        path=context.run.output("retrain", split),
        schema=STAGE.schema,
        split=split,
        settings=inference,
        inputs={"retrain-model": model, "data": context.run.input("data", split)},
        run=ImageByImage(work),
        title="detections of the retrained detector",
    )
