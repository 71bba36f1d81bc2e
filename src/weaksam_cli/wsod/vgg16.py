"""`network: vgg16`: detectors trained through VGG16 from its ImageNet weights, over views of images and their proposals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, SerializeAsAny

from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.settings import RecipeModel, Side
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import RESULTS
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.data.labels import LabelChoice, Split
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.detectors import per_image_detections
from weaksam_cli.engine.predictors import Overlapped
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.evidence import evidence_reader, evidence_rows, test_evidence, training_evidence
from weaksam_cli.wsod.method import Method
from weaksam_cli.wsod.settings import DetectorSettings, InferenceSettings, ProposalSettings, ScheduleSettings

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.own_features import Layer, RegionFeatures, TrainedDetector

MODEL: Final = Schema("weaksam/vgg-detector", 2, ())
RANDOM: Final = "random"
"""In place of a weights file: no initial weights."""
_MOST_LOADERS: Final = 8


def _each_once(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) != len(values):
        raise ValueError("expected each size once")
    return values


Sides = Annotated[tuple[Side, ...], Field(min_length=1, max_length=20), AfterValidator(_each_once)]
Width = Annotated[int, Field(ge=1, le=1024)]
Mean = Annotated[float, Field(ge=-1_000, le=1_000)]
Deviation = Annotated[float, Field(ge=0.001, le=1_000)]


class PixelSettings(RecipeModel):
    """What the network is shown of a pixel; it has to fit the initial weights.

    Attributes:
        order: of the channels.
        mean: taken from the channels in that order, 0 to 255.
        deviation: they are divided by it afterwards.
    """

    order: Literal["BGR", "RGB"] = "BGR"
    mean: tuple[Mean, Mean, Mean] = (102.9801, 115.9465, 122.7717)
    deviation: tuple[Deviation, Deviation, Deviation] = (1.0, 1.0, 1.0)


class ViewSettings(RecipeModel):
    """How an image and its proposals become a view.

    Attributes:
        max_size: of the longer side, which has the last word.
        sizes: `rounded` to whole pixels, or `truncated` as the published MIST does: the longer side is the whole part of
            what the shorter one makes it, a pixel less in half of the views.
        boxes: their corners are scaled as pixel `edges`, or as `inclusive` pixel indexes as the published codes do: right
            and bottom lie (scale - 1) pixels further in then.
    """

    max_size: Side = 2000
    sizes: Literal["rounded", "truncated"] = "rounded"
    boxes: Literal["edges", "inclusive"] = "edges"


class TrainImageSettings(RecipeModel):
    """How training images are changed.

    Attributes:
        short_sides: one is drawn for every view; length of the shorter side in pixels.
        flip: probability of the mirror image.
        lighting: deviation of the noise along the principal components of ImageNet's colours (AlexNet), pixels 0 to 1; 0 for
            none.
    """

    short_sides: Sides = (480, 576, 688, 864, 1000, 1200)
    flip: float = Field(default=0.5, ge=0, le=1)
    lighting: float = Field(default=0.1, ge=0, le=100)


class TestImageSettings(RecipeModel):
    """The views of an image at test; boxes and scores are averaged over them.

    Attributes:
        short_sides: a view each.
        flip: every view mirrored, too.
    """

    short_sides: Sides = (800, 480, 576, 688, 864, 1000, 1200)
    flip: bool = True


class Vgg16Training(RecipeModel):
    """VGG16 with a stride of 8, and RoI pooling, as it is trained.

    Attributes:
        weights: file name of VGG16 trained on ImageNet, or its path; `random` for none.
        weights_order: order of the channels that the file was trained with, which has to be that of `pixels`; `auto` is
            told by the layout of the file: torchvision's is RGB, Caffe's BGR.
        widths: channels of the five blocks of convolutions; others than VGG16's start from random weights alone.
        hidden: width of the two layers after RoI pooling; likewise.
        ceil_mode: pooling keeps incomplete windows at the right and bottom.
        last_relu: after conv5_3; the published MIST leaves it out.
        frozen_blocks: blocks of convolutions, from the image on, that keep their weights; 0 to 5.
        dropout: after each of the two layers after RoI pooling.
    """

    knows_prior: ClassVar[bool] = False
    pools_cells: ClassVar[bool] = True

    name: Literal["vgg16"]
    weights: str = "vgg16-00b39a1b.pth"
    weights_order: Literal["auto", "BGR", "RGB"] = "auto"
    pixels: PixelSettings = PixelSettings()
    views: ViewSettings = ViewSettings()
    train_images: TrainImageSettings = TrainImageSettings()
    widths: tuple[Width, Width, Width, Width, Width] = (64, 128, 256, 512, 512)
    hidden: int = Field(default=4096, ge=1, le=8192)
    ceil_mode: bool = False
    last_relu: bool = True
    frozen_blocks: int = Field(default=2, ge=0, le=5)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class Vgg16(Vgg16Training):
    """VGG16 in training and at test."""

    test_images: TestImageSettings = TestImageSettings()

    def steps(
        self, settings: DetectorSettings, method: Method, context: Context, split: str
    ) -> Iterator[Step]:
        """The detector, from the training split; then the detections of this split. Of new images these alone.

        Raises:
            UserError: the initial weights are not found.
        """
        run, model = context.run, context.run.folder("wsod") / "model.safetensors"
        if context.unlabelled is None or split != context.unlabelled.name:
            yield self._training(settings, method, context, model)
        images = context.split(split)
        detection = DetectionSettings(
            method=method, network=self, proposals=settings.proposals, inference=settings.inference
        )
        inputs = {"data": images.labels, "propose": run.input("propose", split), "wsod-model": model}

        evidence = evidence_rows(test_evidence(settings, method, context, split), context, inputs)

        def work(context: Context) -> PerImage:
            proposals, device = context.rows("propose", split), context.worker_device()
            return _detections(DetectionPredictor(detection, images, proposals, model, device, evidence))

        path, detect = run.output("wsod", split), ImageByImage(work)
        yield Step(path, RESULTS, split, detection, inputs, detect, "detections")

    def region_features(self, trained: TrainedDetector, layer: Layer) -> RegionFeatures:
        """See `own_features.vgg16_features`."""
        from weaksam_cli.wsod.own_features import vgg16_features

        return vgg16_features(self, trained, layer)

    def _training(self, settings: DetectorSettings, method: Method, context: Context, model: Path) -> Step:
        train, weights = context.train_split(), None
        images, proposals = context.split(train), context.run.input("propose", train)
        inputs = {"data": images.labels, "propose": proposals}
        if self.weights != RANDOM:
            weights = inputs["weights"] = context.weights.require(self.weights)
        training = TrainingSettings(
            method=method,
            network=self.part(Vgg16Training),
            proposals=settings.proposals,
            schedule=settings.schedule,
            difficult=settings.difficult,
        )
        evidence = evidence_rows(training_evidence(settings, method, context), context, inputs)
        files = {name: context.weights.require(file) for name, file in method.weight_files.items()}
        inputs |= files
        fit = partial(_fit, training, images, proposals, weights, evidence, files)
        title = "the weakly supervised detector"
        return Step(model, MODEL, train, training, inputs, fit, title, joint=True)


class TrainingSettings(LabelChoice):
    """What decides the detector."""

    method: SerializeAsAny[Method]
    network: Vgg16Training
    proposals: ProposalSettings
    schedule: ScheduleSettings


class DetectionSettings(RecipeModel):
    """What decides the detections, besides the detector."""

    method: SerializeAsAny[Method]
    network: Vgg16
    proposals: ProposalSettings
    inference: InferenceSettings


def _fit(
    settings: TrainingSettings,
    split: Split,
    proposals_path: Path,
    weights: Path | None,
    evidence: Rows | None,
    files: Mapping[str, Path],
    job: Job,
) -> Outcome:
    import torch

    from weaksam_cli.training.checkpoint import model_bytes
    from weaksam_cli.training.loop import training_run
    from weaksam_cli.wsod.detector import fit_detector, label_vectors
    from weaksam_cli.wsod.vgg_detector import build_vgg_detector, sample_loader

    context, labels = job.context, split.read(settings.difficult)
    names = labels.class_names
    if weights is None:
        context.console.warn(
            "the training starts from random weights (weights: random), which learns far less"
        )
    columns = settings.method.stream_columns
    if len(names) == 1 and columns(2) == 2 * columns(1):  # no background
        context.console.warn(
            f"there is one class: the image-level loss of {settings.method.method} is always 0 then, so its seeds are "
            "chance; mist-vgg16 has a background class"
        )
    with open_artifact_of(labels, proposals_path, PROPOSALS) as proposals:
        vectors = label_vectors(labels, proposals)
        if left_out := len(labels.file.images) - len(vectors):
            context.console.info(f"{left_out} images without labels or proposals are not learnt from")
        schedule = settings.schedule.resolved(len(vectors))
        with training_run(job, schedule.steps, most_workers=_MOST_LOADERS) as run:
            torch.manual_seed(run.seed)
            detector = build_vgg_detector(settings.method, settings.network, len(names), weights)
            settings.method.start(detector, names, files)
            known = evidence_reader(evidence)
            load = sample_loader(labels, proposals, vectors, settings, run.seed, known)
            fit_detector(detector, load, len(vectors), schedule, run)
    context.ops.write_atomically(job.path, model_bytes(detector, {"class_names": names}))
    return Outcome(len(vectors))


def _detections(predictor: DetectionPredictor) -> PerImage:
    with open_artifact_of(predictor.split.read(), predictor.proposals, PROPOSALS) as artifact:
        ids = artifact.image_ids
    return per_image_detections(predictor.split, ids, predictor, device=predictor.device)


@dataclass(frozen=True)
class DetectionPredictor:
    """Detections of one image.

    Attributes:
        settings: of the detections.
        split, proposals: what is looked at.
        model: file of the trained detector.
        device: where it runs.
        evidence: of its proposals, where the method asks for it.
    """

    settings: DetectionSettings
    split: Split
    proposals: Rows
    model: Path
    device: str = "cpu"
    evidence: Rows | None = None

    def open(self) -> Overlapped[tuple[NDArray[np.uint8], FloatArray, Tensor | None], Detections]:
        """Load the network once a process; images and proposals are read while the one before is computed."""
        from weaksam_cli.wsod.detector import load_detector
        from weaksam_cli.wsod.used_proposals import image_loader
        from weaksam_cli.wsod.vgg_detector import VggDetector, detect

        settings, labels = self.settings, self.split.read()
        names = labels.class_names
        proposals = open_artifact_of(labels, self.proposals, PROPOSALS, verify=False)
        fresh = VggDetector(settings.method, settings.network, len(names)).to(self.device)
        network = load_detector(fresh, self.model, names)
        read, evidence = image_loader(labels, proposals, settings.proposals), evidence_reader(self.evidence)

        def load(key: str) -> tuple[NDArray[np.uint8], FloatArray, Tensor | None]:
            pixels, used = read(key)
            return pixels, used.boxes, evidence(key)

        def compute(_: str, loaded: tuple[NDArray[np.uint8], FloatArray, Tensor | None]) -> Detections:
            pixels, boxes, known = loaded
            return detect(network, pixels, boxes, settings, known)

        return Overlapped(load, compute)
