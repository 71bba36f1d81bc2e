"""Matching of predicted boxes with annotated ones, in the convention of every evaluator that figures are compared with.

Boxes enter in the program's convention: pixel edges, 0-based. An evaluator that counts pixels from 1 with both ends
inside (VOC's XML) sees them shifted by (1, 1, 0, 0); one that counts from 0 with both ends inside (XML minus 1) by
(0, 0, -1, -1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import paired_iou
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval.case import Truth

Offset = tuple[float, float, float, float]
IndexArray = NDArray[np.int64]
Float64Array = NDArray[np.float64]
T = TypeVar("T")

EDGES: Offset = (0, 0, 0, 0)
FROM_ZERO_INCLUSIVE: Offset = (0, 0, -1, -1)
FROM_ONE_INCLUSIVE: Offset = (1, 1, 0, 0)

TRUE, FALSE, IGNORED = 1, 0, -1
THRESHOLD = 0.5
"""IoU of a hit, in VOC AP and CorLoc."""


@dataclass(frozen=True)
class Convention:
    """How an evaluator reads boxes and decides a match, as data, so that every published protocol has a name.

    Attributes:
        detection_offset: added to x1, y1, x2, y2 of a detection or proposal.
        ground_truth_offset: added to x1, y1, x2, y2 of an annotated box.
        plus_one: whether sides are x2 - x1 + 1.
        strict: whether the IoU must exceed the threshold; otherwise it may equal it.
        box_decimals: decimals to which the detections are written before they are read back; None: not rounded.
        score_decimals: the same for scores.
    """

    detection_offset: Offset = EDGES
    ground_truth_offset: Offset = EDGES
    plus_one: bool = False
    strict: bool = False
    box_decimals: int | None = None
    score_decimals: int | None = None

    def detection_boxes(self, boxes: NDArray[np.floating]) -> Float64Array:
        """Detections (n, 4) as the evaluator reads them."""
        moved = boxes.astype(np.float64) + np.asarray(self.detection_offset)
        return moved if self.box_decimals is None else np.round(moved, self.box_decimals)

    def ground_truth_boxes(self, boxes: NDArray[np.floating]) -> Float64Array:
        """Annotated boxes (n, 4) as the evaluator reads them."""
        return boxes.astype(np.float64) + np.asarray(self.ground_truth_offset)

    def detection_scores(self, scores: NDArray[np.floating]) -> Float64Array:
        """Scores (n,) as the evaluator reads them."""
        exact = scores.astype(np.float64)
        return exact if self.score_decimals is None else np.round(exact, self.score_decimals)

    def reaches(self, overlap: Float64Array, threshold: float) -> NDArray[np.bool_]:
        """Whether IoUs are large enough for a match."""
        return overlap > threshold if self.strict else overlap >= threshold


PIXEL_EDGES = Convention()
"""Our own: IoU of float boxes without +1, a match at the threshold or above."""

MIST_AP = Convention(plus_one=True)
"""MIST counts inclusive pixels, adds 1 to x2 and y2 (which gives edges) and once more in the IoU."""

MIST_CORLOC = Convention(
    detection_offset=FROM_ZERO_INCLUSIVE,
    ground_truth_offset=FROM_ONE_INCLUSIVE,
    plus_one=True,
    strict=True,
    box_decimals=1,
)
"""MIST's CorLoc compares boxes counted from 0, written with a decimal, with the XML's boxes counted from 1. The best
detection is chosen by its full score, before it is written."""

MMDETECTION_2 = Convention(detection_offset=FROM_ZERO_INCLUSIVE, ground_truth_offset=FROM_ZERO_INCLUSIVE)
"""WSOD2's mmdetection 2: XML minus 1 on both sides, IoU without +1."""

MMDETECTION_3_LEGACY = Convention(
    detection_offset=FROM_ZERO_INCLUSIVE, ground_truth_offset=FROM_ZERO_INCLUSIVE, plus_one=True
)
"""DINO's `VOCMetric` of mmdetection 3 with legacy coordinates: XML minus 1 on both sides, IoU with +1."""

DETECTRON2_TEXT = Convention(
    detection_offset=FROM_ONE_INCLUSIVE,
    ground_truth_offset=FROM_ONE_INCLUSIVE,
    plus_one=True,
    strict=True,
    box_decimals=1,
    score_decimals=3,
)
"""detectron2's VOC evaluator and its fork: text lines with x1 and y1 counted from 1, IoU with +1, above 0.5."""


def in_order(keys: Mapping[str, object], predictions: Mapping[str, T], absent: T, *, name: str) -> list[T]:
    """The predictions for every key of the ground truth, `absent` where there is none.

    Raises:
        UserError: when there are predictions for an image that the ground truth does not hold.
    """
    unknown = sorted(predictions.keys() - keys.keys())
    if unknown:
        raise UserError(
            f"{len(unknown)} images are not in the ground truth, the first is {unknown[0]!r}",
            where=name,
            remedy="Evaluate against the split that they were made for",
        )
    return [predictions.get(key, absent) for key in keys]


@dataclass(frozen=True)
class Overlaps:
    """Every detection with the object of its image and class that it overlaps most.

    What belongs to one image and class is a group; its number is image * classes + class.

    Attributes:
        objects_group: int64 (objects,).
        difficult: bool (objects,).
        group: int64 (detections,).
        scores: float64 (detections,), as the evaluator reads them.
        best: float64 (detections,), the IoU; -1 where the image has no such object.
        claimed: int64 (detections,), the object's row, the first of equals; -1 for none.
    """

    objects_group: IndexArray
    difficult: NDArray[np.bool_]
    group: IndexArray
    scores: Float64Array
    best: Float64Array
    claimed: IndexArray


def groups(items: Sequence[GroundTruth] | Sequence[Detections], n_classes: int) -> IndexArray:
    """The group of every object or detection, images in order, int64 (n,); see `Overlaps`."""
    image = np.repeat(np.arange(len(items)), [len(item) for item in items])
    return image * n_classes + joined([item.class_index for item in items]).astype(np.int64)


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The arrays of all images as one; nothing of no image."""
    return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)


def best_overlaps(
    truth: Truth, detections: Mapping[str, Detections], n_classes: int, convention: Convention
) -> Overlaps:
    """The largest overlap of every detection, as `convention` reads boxes.

    Raises:
        UserError: for detections of an image that the ground truth does not hold.
    """
    objects = [*truth.values()]
    found = in_order(truth, detections, Detections.empty(), name="detections")
    boxes = convention.ground_truth_boxes(joined([item.boxes for item in objects]).reshape(-1, 4))
    detected = convention.detection_boxes(joined([item.boxes for item in found]).reshape(-1, 4))
    objects_group, group = groups(objects, n_classes), groups(found, n_classes)
    order = np.argsort(objects_group, kind="stable")
    low = np.searchsorted(objects_group[order], group, side="left")
    count = np.searchsorted(objects_group[order], group, side="right") - low
    detection = np.repeat(np.arange(len(low)), count)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    candidate = order[low[detection] + within]
    overlap = paired_iou(detected[detection], boxes[candidate], plus_one=convention.plus_one)
    best = np.full(len(low), -1.0)
    np.maximum.at(best, detection, overlap)
    claimed = np.full(len(low), -1, dtype=np.int64)
    winners = np.flatnonzero(overlap == best[detection])[::-1]
    claimed[detection[winners]] = candidate[winners]
    difficult = joined([item.difficult for item in objects]).astype(bool)
    scores = convention.detection_scores(joined([item.scores for item in found]))
    return Overlaps(objects_group, difficult, group, scores, best, claimed)


@dataclass(frozen=True)
class Matches:
    """Which detections are true, by decreasing score over all images.

    Attributes:
        class_index: int64 (n,), class of the detection.
        status: int8 (n,): 1 true, 0 false, -1 ignored because its best match is difficult.
        n_objects: int64 (n_classes,), annotated objects that are not difficult.
    """

    class_index: IndexArray
    status: NDArray[np.int8]
    n_objects: IndexArray

    def counts(self, status: int) -> IndexArray:
        """Detections of every class with that status, (n_classes,)."""
        return np.bincount(self.class_index[self.status == status], minlength=len(self.n_objects))


def first_claims(
    claimed: IndexArray, hit: NDArray[np.bool_], difficult: NDArray[np.bool_], scores: Float64Array
) -> tuple[IndexArray, NDArray[np.int8]]:
    """Greedy matching by score: each object goes to the best-scored detection that hits it.

    Args:
        claimed: int64 (n,), the object that every detection overlaps most, -1 for none.
        hit: bool (n,), whether that overlap is large enough.
        difficult: bool (objects,).
        scores: float64 (n,).

    Returns:
        The order of the detections by decreasing score (equal scores keep their order), and their status, int8
        (n,), in that order. A second hit on an object is false, a hit on a difficult object is ignored.
    """
    order = np.argsort(-scores, kind="stable")
    claimed, hit = claimed[order], hit[order]
    status = np.full(len(order), FALSE, dtype=np.int8)
    ignored = hit.copy()
    ignored[hit] = difficult[claimed[hit]]
    status[ignored] = IGNORED
    open_hits = np.flatnonzero(hit & ~ignored)
    _, first = np.unique(claimed[open_hits], return_index=True)
    status[open_hits[first]] = TRUE
    return order, status


def match_detections(
    truth: Truth, detections: Mapping[str, Detections], n_classes: int, convention: Convention
) -> Matches:
    """Match boxes at an IoU of .5, see `matched`.

    Raises:
        UserError: see `best_overlaps`.
    """
    found = best_overlaps(truth, detections, n_classes, convention)
    return matched(found, convention.reaches(found.best, THRESHOLD), n_classes)


def matched(found: Overlaps, hit: NDArray[np.bool_], n_classes: int) -> Matches:
    """Match as VOC does: a detection stands or falls with the object of its class that it overlaps most.

    Args:
        found: the overlaps.
        hit: bool (detections,), whether the largest is large enough.
        n_classes: how many there are.
    """
    order, status = first_claims(found.claimed, hit & (found.claimed >= 0), found.difficult, found.scores)
    n_objects = np.bincount(found.objects_group[~found.difficult] % n_classes, minlength=n_classes)
    return Matches(found.group[order] % n_classes, status, n_objects)
