"""What an evaluator is given, ground truth included, and what it answers.

A metric is a module with one `evaluate(case, settings)`; `standard.EVALUATORS` says which artifacts it is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weaksam_cli.artifacts.proposals import PROPOSALS, Proposals, read_proposals
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data.detections import has_masks, read_detections
from weaksam_cli.data.fused_maps import FusedMaps, fused_maps
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.source import Source

_Read = TypeVar("_Read")
Truth = Mapping[str, GroundTruth]
"""Image key to annotated objects."""


@dataclass(frozen=True)
class PerClass:
    """One figure a class, as a share in [0, 1].

    Attributes:
        values: class name to figure; NaN for a class that the ground truth does not hold.
        support: class name to the number of objects, images or points that the figure rests on.
    """

    values: dict[str, float]
    support: dict[str, int]

    @property
    def mean(self) -> float:
        """Mean over the classes that the ground truth holds; NaN when it holds none."""
        known = [value for value in self.values.values() if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    @property
    def total(self) -> float:
        """The figure over all classes together, each weighted with its support; NaN without support."""
        support = np.asarray([*self.support.values()])
        values = np.asarray([*self.values.values()])[support > 0]
        return float(values @ support[support > 0] / support.sum()) if len(values) else float("nan")

    @classmethod
    def of(cls, class_names: Sequence[str], values: ArrayLike, support: NDArray[np.int64]) -> PerClass:
        """Figures and their support in the order of the class names."""
        figures = np.asarray(values, np.float64).tolist()
        return cls(
            dict(zip(class_names, figures, strict=True)),
            dict(zip(class_names, support.tolist(), strict=True)),
        )

    @classmethod
    def ratio(
        cls, class_names: Sequence[str], hits: NDArray[np.generic], support: NDArray[np.int64]
    ) -> PerClass:
        """`hits / support` for every class, NaN where there is no support."""
        shares = np.full(len(support), np.nan)
        np.divide(hits, support, out=shares, where=support > 0)
        return cls.of(class_names, shares, support)

    @classmethod
    def means(cls, class_names: Sequence[str], shares: Sequence[tuple[int, float]]) -> PerClass:
        """Mean over all (class, share) pairs of a class."""
        index = np.asarray([index for index, _ in shares], np.int64)
        sums = np.bincount(index, [share for _, share in shares], minlength=len(class_names))
        return cls.ratio(class_names, sums, np.bincount(index, minlength=len(class_names)))


@dataclass(frozen=True)
class Metric:
    """One figure of an artifact, as it stands in the results file.

    Attributes:
        stage: the stage whose artifact was evaluated, or `baseline`.
        variant: its variant, '' for the plain one.
        name: what is told.
        value: a share in [0, 1] or a count; None where there is nothing to tell.
        share: whether `value` is a share.
        classes: class -> figure, where the metric is a mean over classes.
    """

    stage: str
    variant: str
    name: str
    value: float | None
    share: bool = True
    classes: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the results file."""
        value = None if self.value is None or np.isnan(self.value) else round(self.value, 6)
        classes = {name: round(share, 6) for name, share in self.classes.items() if not np.isnan(share)}
        return asdict(self) | {"value": value, "classes": classes}


@dataclass(frozen=True)
class Case:
    """One artifact, and what it is held against.

    Attributes:
        stage, variant: whose it is.
        path: the artifact.
        labels: of the split.
        truth: annotated objects of all images of the labels; empty where the dataset has no boxes.
        layout: of the dataset: its boxes follow the conventions of the layout.
        artifacts: `stage` or `stage@variant` -> all artifacts of the split.
        opened: what evaluators have read by now; the cases of one evaluation share it.
    """

    stage: str
    variant: str
    path: Path
    labels: Labels
    truth: Truth
    layout: str
    artifacts: Mapping[str, Path]
    opened: dict[tuple[str, Path], Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the class indexes."""
        return self.labels.class_names

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Image key to height and width."""
        return {image.key: (image.height, image.width) for image in self.labels.file.images}

    @cached_property
    def detections(self) -> dict[str, Detections]:
        """What a JSON artifact holds, by image key, with masks where objects have some; read once for all evaluators."""
        drawn = any(objects.masks for objects in self.truth.values())
        return read_detections(self.path, self.labels, masks=drawn)

    def proposals(self, path: Path) -> dict[str, Proposals]:
        """See `proposals_of`; an artifact is read once for all evaluators."""
        return self._once("proposals", path, proposals_of)

    def maps(self, path: Path) -> dict[str, dict[str, FusedMaps]]:
        """See `fused_maps`; an artifact is read once for all evaluators."""
        return self._once("maps", path, fused_maps)

    def _once(self, what: str, path: Path, read: Callable[[Path, Labels], _Read]) -> _Read:
        if (what, path) not in self.opened:
            self.opened[what, path] = read(path, self.labels)
        found: _Read = self.opened[what, path]
        return found

    @property
    def has_masks(self) -> bool:
        """Whether both the artifact and the objects have masks."""
        return has_masks(self.detections)

    def metric(self, name: str, value: float | None, *, share: bool = True) -> Metric:
        """A figure of this artifact as a whole."""
        return Metric(self.stage, self.variant, name, value, share)

    def per_class(self, name: str, found: PerClass) -> Metric:
        """A figure of this artifact that is a mean over classes."""
        return Metric(self.stage, self.variant, name, found.mean, classes=found.values)


def proposals_of(path: Path, labels: Labels) -> dict[str, Proposals]:
    """The proposals in an artifact by image key.

    Raises:
        UserError: a damaged artifact, or a box that is not finite or ends before it begins.
    """
    with open_artifact_of(labels, path, PROPOSALS) as artifact:
        return {key: read_proposals(artifact, key) for key in artifact}


@dataclass(frozen=True)
class AnnotatedSplit:
    """The annotated objects of a split.

    Attributes:
        objects: image key to objects, for every image of the labels, in their order.
        left_out: (image key, reason) of each object, or of all of an image, that could not be used.
        warnings: what is odd and was used all the same.
    """

    objects: dict[str, GroundTruth]
    left_out: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 of all boxes, classes, flags and areas, and of the masks that were read."""
        value = hashlib.sha256()
        for key, objects in self.objects.items():
            value.update(key.encode())
            for array in (objects.boxes, objects.class_index, objects.difficult, objects.areas):
                value.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
            for mask in objects.masks or ():
                value.update(b"\0" if mask is None else mask + b"\n")
        return value.hexdigest()

    def counts(self) -> dict[str, int]:
        """Objects, and where masks were read, objects with masks and the images that have some."""
        masks = [sum(mask is not None for mask in item.masks or ()) for item in self.objects.values()]
        found = {"objects": sum(map(len, self.objects.values()))}
        were_read = any(item.masks is not None for item in self.objects.values())
        return found | (
            {"masks": sum(masks), "images_with_masks": sum(map(bool, masks))} if were_read else {}
        )


def load_ground_truth(
    run_root: Path, source: Source, labels: Labels, *, masks: bool = False
) -> AnnotatedSplit:
    """Annotated objects with class indexes of the labels, with `masks` theirs, too; none where the layout has no boxes.

    Raises:
        UserError: annotations without boxes, or classes that are not those of the labels.
    """
    found = read_ground_truth(run_root, source, labels, masks=masks)
    if found is None:
        return AnnotatedSplit({}, (), ())
    empty = GroundTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.bool_))
    objects = {key: image.objects for key, image in found.images.items()}
    return AnnotatedSplit(
        {key: objects.get(key, empty) for key in labels.keys},
        found.left_out(labels),
        tuple(f"{key}: {reason}" if key else reason for key, reason in found.warnings),
    )
