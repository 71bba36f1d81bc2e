"""Detectors over precomputed proposals, on whatever gives them RoI features (spec 04 §A.5, §A.6, §B.3, §B.4).

Which proposals they are given, a method's heads on a network, training, and which answers become detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import EpochSampler, LoadItem, sampled
from weaksam_cli.training.checkpoint import expect_classes, load_model, read_metadata
from weaksam_cli.training.loop import LearningRateSchedule, Training, TrainingRun, train
from weaksam_cli.wsod.method import Method, Outputs, Pool, Regions, Rois, Sizes
from weaksam_cli.wsod.settings import (
    HeadSettings,
    InferenceSettings,
    OptimizerSettings,
    ScheduleSettings,
)

_LARGEST_FEATURE = 6.0
"""Standardised features are cut there: rare cells would otherwise dominate."""


@dataclass(frozen=True)
class Sample:
    """One image as a detector takes it.

    Attributes:
        input: what features are made from: for vgg16 a view, float32 (3, h, w); for lite0 RoI features, float32 (R, D).
        regions: its proposals.
        views: further views of the image, for methods that learn from several; the same proposals in the same order.
    """

    input: Tensor
    regions: Regions
    views: tuple[Sample, ...] = ()

    def to(self, device: torch.device) -> Sample:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: item.to(device) if isinstance(item, Tensor) else item
            for name, item in vars(self.regions).items()
        }
        return Sample(self.input.to(device), Regions(**moved), tuple(view.to(device) for view in self.views))


@dataclass(frozen=True)
class Answer:
    """What a detector says of the R proposals of one image.

    Attributes:
        scores: float32 (R, C).
        boxes: float32, xyxy pixel edges in the view: (R, 4), or (R, C, 4) with one for each class.
    """

    scores: Tensor
    boxes: Tensor


class RegionHeads(nn.Module):
    """WSDDN's two streams and the branches of a method, with fresh weights (seed torch before).

    Tensors of the branches are named `refinements.<i>`, their regressions `regressions.<i>`.

    Args:
        method: says how many outputs there are.
        feature_size: D, length of a RoI feature.
        class_count: C.
        channels: of pooled RoIs, before the neck.
    """

    def __init__(self, method: Method, feature_size: int, class_count: int, channels: int) -> None:
        super().__init__()
        settings = method.heads
        self.shared, branches = settings.shared, method.branches
        width, deltas = settings.hidden or feature_size, method.delta_columns(class_count)
        streams = method.stream_columns(class_count)
        self.necks = nn.ModuleList(
            _neck(feature_size, settings) for _ in range(1 if settings.shared else 1 + branches)
        )
        self.classification = nn.Linear(width, streams)
        self.detection = nn.Linear(width, streams)
        self.refinements: Any = nn.ModuleList(nn.Linear(width, class_count + 1) for _ in range(branches))
        self.regressions: Any = nn.ModuleList(
            nn.Linear(width, deltas) for _ in range(method.regressed if deltas else 0)
        )
        for layer in (self.classification, self.detection, *self.refinements, *self.regressions):
            regresses = any(layer is item for item in self.regressions)
            deviation = method.delta_deviation if regresses else settings.initial_deviation
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        for name, module in method.modules(Sizes(channels, feature_size, class_count)).items():
            self.add_module(name, module)

    def forward(self, features: Tensor) -> Outputs:
        """Outputs, float32 whatever the features (R, D) are."""
        hidden = [neck(features) for neck in self.necks]
        own = hidden[:1] * len(self.refinements) if self.shared else hidden[1:]
        last = own[len(own) - len(self.regressions) :]
        return Outputs(
            self.classification(hidden[0]).float(),
            self.detection(hidden[0]).float(),
            tuple(branch(found).float() for branch, found in zip(self.refinements, own, strict=True)),
            tuple(branch(found).float() for branch, found in zip(self.regressions, last, strict=True)),
        )


def _neck(feature_size: int, settings: HeadSettings) -> nn.Sequential:
    layers: list[nn.Module] = []
    if settings.hidden:
        layers = [nn.Linear(feature_size, settings.hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(settings.dropout))


class RegionDetector(nn.Module):
    """A method's heads on a neck; those who derive from it say where pooled RoIs come from.

    Args:
        method: what is trained.
        neck: from pooled RoIs to features (R, D).
        feature_size: D.
        class_count: C.
        channels: of pooled RoIs.
    """

    def __init__(
        self, method: Method, neck: nn.Module, feature_size: int, class_count: int, channels: int
    ) -> None:
        super().__init__()
        self.method, self.neck, self.progress = method, neck, 0.0
        self.heads = RegionHeads(method, feature_size, class_count, channels)

    def outputs(self, samples: Sequence[Sample]) -> list[Outputs]:
        """Of each image."""
        raise NotImplementedError

    def forward(self, samples: Sequence[Sample]) -> dict[str, Tensor] | list[Answer]:
        """Losses by name, means over the images, in training mode; else the answer for each image, without gradient."""
        device = self.heads.classification.weight.device
        samples = [item.to(device) for item in samples]
        if not self.training:
            with torch.no_grad():
                images = self.outputs(samples)
                pairs = zip(images, _seen(images, samples), strict=True)
                return [
                    Answer(self.method.scores(found), self.method.boxes(found, own.boxes))
                    for found, own in pairs
                ]
        samples = [replace(item, regions=replace(item.regions, progress=self.progress)) for item in samples]
        images = self.outputs(samples)
        with torch.autocast(device.type, enabled=False):
            return self.method.batch_losses(images, _seen(images, samples))


def _seen(images: Sequence[Outputs], samples: Sequence[Sample]) -> list[Regions]:
    """What the outputs of each image are of."""
    pairs = zip(images, samples, strict=True)
    return [found.regions[0] if found.regions else item.regions for found, item in pairs]


class Standardise(nn.Module):
    """Features (R, D) with the mean and deviation, (2, D), of the training split's taken out, and cut."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, statistics: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", statistics[0].clone())
        self.register_buffer("deviation", statistics[1].clone())

    def forward(self, features: Tensor) -> Tensor:
        """Standardised (R, D)."""
        standard = (features - self.mean) / self.deviation
        return standard.clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)


class FrozenDetector(RegionDetector):
    """A detector whose RoI features come with the image; `statistics` (2, D) standardise them."""

    def __init__(self, method: Method, statistics: Tensor, class_count: int) -> None:
        size = statistics.shape[1]
        super().__init__(method, Standardise(statistics), size, class_count, size)
        method.complete(self)

    def outputs(self, samples: Sequence[Sample]) -> list[Outputs]:
        """Image by image."""
        return [
            self.method.outputs_of_rois(self.heads, Rois([item.regions], _given(item.input)), self.neck)
            for item in samples
        ]


def _given(found: Tensor) -> Pool:
    """RoI features that came with the image."""

    def pool(
        features: Tensor | None = None, stride: int = 8, boxes: Sequence[Tensor] | None = None
    ) -> Tensor:
        return found

    return pool


def fit_detector(
    detector: RegionDetector, load_item: LoadItem, images: int, schedule: ScheduleSettings, run: TrainingRun
) -> None:
    """Train in place, going on from the checkpoint where there is one.

    Args:
        detector: with the weights that the training starts from.
        load_item: from iteration, position in the step and index of an image to its `Sample`; a pure function.
        images: how many there are to learn from, at least 1.
        schedule: how long and how fast, resolved.
        run: where and from which seed.

    Raises:
        UserError: what `train` raises.
    """
    detector.to(run.device).train()
    method_step, extras = detector.method.training_step(detector, schedule.steps)

    def step(training: Training, batch: list[Sample]) -> dict[str, float]:
        detector.progress = training.iteration / schedule.steps
        return method_step(training, batch)

    train(
        Training(
            detector,
            make_optimizer(detector, schedule, schedule.refinement_factor, schedule.momentum),
            run,
            mixed_precision=schedule.mixed_precision,
            images_at_once=schedule.images_at_once,
        ),
        sampled(EpochSampler(images, schedule.batch_size, run.seed), load_item, run.workers, run.processes),
        LearningRateSchedule(
            schedule.steps,
            milestones=schedule.milestones,
            gamma=schedule.decay,
            warmup_iterations=schedule.warmup_iterations,
            warmup_factor=schedule.warmup_factor,
            cosine=schedule.cosine,
        ),
        step=step,
        extras=extras,
    )


def make_optimizer(
    module: nn.Module,
    settings: OptimizerSettings,
    refinement_factor: float | None = None,
    momentum: float | None = None,
) -> torch.optim.Optimizer:
    """Adam, or stochastic gradient descent, over the parameters that take gradient.

    Args:
        module: whose parameters.
        settings: rate and decay, and what differs for biases.
        refinement_factor: learning rate of the refinement branches, biases too, relative to the others; None leaves them
            alone.
        momentum: of stochastic gradient descent; None makes it Adam.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = settings.learning_rate, settings.weight_decay
        if refinement_factor is not None and name.startswith("heads.refinements."):
            rate *= refinement_factor
        elif settings.bias_factor is not None and name.endswith("bias"):
            rate, decay = rate * settings.bias_factor, 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    made = [{"params": own, "lr": rate, "weight_decay": decay} for (rate, decay), own in groups.items()]
    if momentum is None:
        return torch.optim.Adam(made, lr=settings.learning_rate)
    return torch.optim.SGD(made, lr=settings.learning_rate, momentum=momentum)


def label_vectors(labels: Labels, artifact: Artifact) -> dict[str, Tensor]:
    """Image key -> float (C,), 1 for its classes, of the artifact's images that have a label, in its order.

    Raises:
        UserError: there is none to learn from.
    """
    images, vectors = labels.by_key(), {}
    for key in artifact.image_ids:
        if key in images and images[key].labels:
            vectors[key] = torch.zeros(len(labels.class_names))
            vectors[key][labels.class_indexes(images[key])] = 1
    if not vectors:
        raise UserError("no training image has both proposals and labels", where=str(artifact.path))
    return vectors


def load_detector(detector: RegionDetector, path: Path, class_names: Sequence[str]) -> RegionDetector:
    """The detector with the weights of a trained one, in evaluation mode.

    Args:
        detector: its weights are replaced.
        path: of a file of `model_bytes` whose metadata has `class_names`.
        class_names: of the images that it is to look at.

    Raises:
        UserError: the file is missing, damaged, of another model or for other classes.
    """
    expect_classes(read_metadata(path).get("class_names"), class_names, path)
    load_model(detector, path)
    return detector.eval()


def select_detections(
    boxes: FloatArray, scores: NDArray[np.float32], settings: InferenceSettings
) -> Detections:
    """Detections of one image, class by class and by decreasing score within a class.

    A box without area, which decoding and cutting to the image may leave, never becomes a detection. Further detections of
    the score of the last one that is let in stay, too.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges, or (R, C, 4) with a box for each class.
        scores: float32 (R, C).
        settings: thresholds and number.

    Raises:
        ValueError: for boxes of another shape, or numbers that are not finite.
    """
    count, classes = scores.shape
    if boxes.shape not in ((count, 4), (count, classes, 4)):
        raise ValueError(f"boxes: expected shape ({count}, 4) or ({count}, {classes}, 4), got {boxes.shape}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("boxes and scores: expected finite numbers, got NaN or infinity")
    found = []
    for index in range(classes):
        places = boxes if boxes.ndim == 2 else boxes[:, index]
        has_area = (places[:, 2:] > places[:, :2]).all(axis=1)
        rows = np.flatnonzero(has_area & (scores[:, index] > settings.score_threshold))
        compared = box_math.edges_to_inclusive(places[rows]) if settings.inclusive else places[rows]
        own = torch.from_numpy(scores[rows, index])
        kept = rows[nms(torch.from_numpy(compared), own, settings.nms).numpy()]
        found.append(Detections(places[kept], np.full(len(kept), index, np.int32), scores[kept, index]))
    joined = Detections.concatenate(found)
    if len(joined) <= settings.detections:
        return joined
    return joined.take(
        joined.scores >= np.partition(joined.scores, -settings.detections)[-settings.detections]
    )
