"""`weaksam retrain`: train a detector on pseudo ground truth, then detect with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from weaksam_cli.artifacts.schema import ImageRows, Schema
from weaksam_cli.artifacts.schemas import detections_to_rows
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.data.detections import RESULTS_FORMAT, RESULTS_VERSION
from weaksam_cli.data.labels import LabelledImage, Labels, read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.detecting import detections_maker
from weaksam_cli.engine.execution import ImageFunction
from weaksam_cli.engine.legacy import Context, Job, Product, what_decides
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.retrain.recipe import FasterRcnnRecipe

MODEL_FORMAT = "weaksam/faster-rcnn"
MODEL_VERSION = 1
WITHOUT_FILE = ("imagenet", "random")
"""Initial weights that need no file."""


def _reader(labels: Labels) -> Any:
    images: dict[str, LabelledImage] = {image.file_name: image for image in labels.file.images}
    return lambda name: labels.read_image(images[name])


@dataclass(frozen=True)
class FitModel:
    """Trains the detector; interrupted, it goes on from its checkpoint to the same weights."""

    recipe: FasterRcnnRecipe
    pgt: Path
    labels: Path
    image_root: Path
    weights: Path | None

    def _with_weights_found(self) -> FasterRcnnRecipe:
        """The recipe with the path of its weights file where it names one."""
        if self.weights is None:
            return self.recipe
        backbone = self.recipe.backbone.model_copy(update={"weights": str(self.weights)})
        return self.recipe.model_copy(update={"backbone": backbone})

    def __call__(self, job: Job) -> MergeCount:
        """Write the model as safetensors."""
        from weaksam_cli.retrain.dataset import dataset_dicts
        from weaksam_cli.retrain.fit import fit
        from weaksam_cli.training.checkpoint import model_bytes
        from weaksam_cli.training.run import training_run

        labels = read_labels(self.labels, self.image_root)
        coco = json.loads(self.pgt.read_bytes())
        entries = dataset_dicts(coco, labels.class_names, keep_empty=self.recipe.train_images.keep_empty)
        recipe = self._with_weights_found().resolved(len(entries))
        with training_run(
            job, recipe.schedule.steps, checkpoint_every=recipe.schedule.checkpoint_period
        ) as run:
            trained = fit(
                recipe,
                entries,
                len(labels.class_names),
                read_image=_reader(labels),
                run=run,
            )
        job.context.ops.write_atomically(
            job.path, model_bytes(trained.model, {"class_names": labels.class_names})
        )
        return MergeCount(len(entries), ())


@dataclass(frozen=True)
class DetectWork:
    """Detections of one image by the trained model."""

    recipe: FasterRcnnRecipe
    model: Path
    labels: Path
    image_root: Path
    device: str

    def open(self) -> ImageFunction:
        """Load the model once a process."""
        from weaksam_cli.retrain.faster_rcnn import build_detector
        from weaksam_cli.retrain.predict import make_detector
        from weaksam_cli.training.checkpoint import load_model

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        # Trained weights are loaded over whatever the backbone would start from.
        backbone = self.recipe.backbone.model_copy(update={"weights": "random"})
        recipe = self.recipe.model_copy(update={"backbone": backbone})
        config, model = build_detector(recipe, len(labels.class_names), self.device)
        load_model(model, self.model)
        detect = make_detector(model, config, self.recipe.inference)

        def function(image_id: str) -> ImageRows:
            return detections_to_rows(detect(labels.read_image(images[image_id])))

        return function


class RetrainStage:
    """A detector trained on pseudo ground truth."""

    name: ClassVar[str] = "retrain"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {"faster-rcnn": FasterRcnnRecipe}

    def products(self, recipe: FasterRcnnRecipe, context: Context, split: str) -> Iterator[Product]:
        """The model, then the detections of the split."""
        root = image_root(context.run.root, context.source())
        resolved = recipe.model_dump(mode="json")
        model = context.run.folder("retrain") / "model.safetensors"
        yield self._model(recipe, context, root, model, resolved)
        labels = context.run.input("data", split)

        def make(job: Job) -> MergeCount:
            found = read_labels(labels, root)
            device = context.torch_device()
            work = DetectWork(recipe, model, labels, root, device)
            return detections_maker(found, found.keys, work, device=device)(job)

        yield Product(
            path=context.run.output("retrain", split),
            format_name=RESULTS_FORMAT,
            format_version=RESULTS_VERSION,
            split=split,
            recipe={"inference": resolved["inference"]},
            inputs={"retrain-model": model, "data": labels},
            make=make,
            what="detections of the retrained detector",
        )

    def _model(
        self, recipe: FasterRcnnRecipe, context: Context, root: Path, path: Path, resolved: dict[str, Any]
    ) -> Product:
        train = context.train_split()
        inputs = {"pgt": context.run.input("pgt", train), "data": context.run.input("data", train)}
        weights = None
        if recipe.backbone.weights not in WITHOUT_FILE:
            weights = inputs["weights"] = context.weights.require(recipe.backbone.weights)
        return Product(
            path=path,
            format_name=MODEL_FORMAT,
            format_version=MODEL_VERSION,
            split=train,
            recipe=what_decides({name: value for name, value in resolved.items() if name != "inference"}),
            inputs=inputs,
            make=FitModel(recipe, inputs["pgt"], inputs["data"], root, weights),
            what="the retrained detector",
        )


LEGACY = RetrainStage()
STAGE = Stage("retrain", 1, "retrain", "detections/{split}.json", Schema(RESULTS_FORMAT, RESULTS_VERSION, ()))
