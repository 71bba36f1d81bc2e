"""Matching of predicted boxes with annotated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval.conventions import Convention

IndexArray = NDArray[np.int64]
Float64Array = NDArray[np.float64]
T = TypeVar("T")

TRUE, FALSE, IGNORED = 1, 0, -1


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
class Rows:
    """Boxes of all images one after the other.

    Attributes:
        boxes: float64 (n, 4).
        image_index: int64 (n,), position of the image in the ground truth.
        class_index: int64 (n,).
        weight: float64 (n,), the score of a detection, or 1 for a difficult annotated object and 0 for another.
    """

    boxes: Float64Array
    image_index: IndexArray
    class_index: IndexArray
    weight: Float64Array

    def group(self, n_classes: int) -> IndexArray:
        """One number for every image and class."""
        return self.image_index * n_classes + self.class_index


def ground_truth_rows(ground_truth: Mapping[str, GroundTruth], convention: Convention) -> Rows:
    """The annotated objects as `convention` reads them."""
    items = list(ground_truth.values())
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(item.boxes for item in items)])
    return Rows(
        convention.ground_truth_boxes(boxes),
        np.repeat(np.arange(len(items)), [len(item) for item in items]),
        np.concatenate([np.zeros(0, np.int64), *(item.class_index for item in items)]).astype(np.int64),
        np.concatenate([np.zeros(0), *(item.difficult for item in items)]).astype(np.float64),
    )


def detection_rows(
    ground_truth: Mapping[str, GroundTruth], detections: Mapping[str, Detections], convention: Convention
) -> Rows:
    """The detections as `convention` reads them.

    Raises:
        UserError: for detections of an image that the ground truth does not hold.
    """
    items = in_order(ground_truth, detections, Detections.empty(), name="detections")
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(item.boxes for item in items)])
    scores = np.concatenate([np.zeros(0, np.float32), *(item.scores for item in items)])
    return Rows(
        convention.detection_boxes(boxes),
        np.repeat(np.arange(len(items)), [len(item) for item in items]),
        np.concatenate([np.zeros(0, np.int64), *(item.class_index for item in items)]).astype(np.int64),
        convention.detection_scores(scores),
    )


def check_classes(class_index: IndexArray, n_classes: int, *, name: str) -> None:
    """Refuse classes outside the table of names.

    Raises:
        ValueError: for an index below 0 or beyond the names.
    """
    if len(class_index) and (class_index.min() < 0 or class_index.max() >= n_classes):
        raise ValueError(
            f"{name}: expected classes 0 to {n_classes - 1}, got {class_index.min()} to {class_index.max()}"
        )


def paired_iou(a: Float64Array, b: Float64Array, *, plus_one: bool) -> Float64Array:
    """IoU of the boxes of `a` (n, 4) with those of `b` (n, 4) in the same row; 0 where both are empty."""
    extra = float(plus_one)
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + extra, 0)
    overlap = sides.prod(axis=1)
    area_a, area_b = (np.maximum(box[:, 2:] - box[:, :2] + extra, 0).prod(axis=1) for box in (a, b))
    union = area_a + area_b - overlap
    ratio: Float64Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio


def best_overlaps(
    detected: Rows, annotated: Rows, *, n_classes: int, plus_one: bool
) -> tuple[Float64Array, IndexArray]:
    """For every detection the largest IoU with an object of its image and class, and the object's row.

    Returns:
        float64 (n,), -1 where the image has no such object, and int64 (n,), then -1; the first of equals.
    """
    annotated_group = annotated.group(n_classes)
    order = np.argsort(annotated_group, kind="stable")
    groups = detected.group(n_classes)
    low = np.searchsorted(annotated_group[order], groups, side="left")
    count = np.searchsorted(annotated_group[order], groups, side="right") - low
    detection = np.repeat(np.arange(len(groups)), count)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    candidate = order[low[detection] + within]
    overlap = paired_iou(detected.boxes[detection], annotated.boxes[candidate], plus_one=plus_one)
    best = np.full(len(groups), -1.0)
    np.maximum.at(best, detection, overlap)
    row = np.full(len(groups), -1, dtype=np.int64)
    winners = np.flatnonzero(overlap == best[detection])[::-1]
    row[detection[winners]] = candidate[winners]
    return best, row


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
        hit: bool (n,), whether that overlap meets the threshold.
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
    ground_truth: Mapping[str, GroundTruth],
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    *,
    threshold: float,
    convention: Convention,
) -> Matches:
    """Match as VOC does: a detection stands or falls with the object of its class that it overlaps most.

    Raises:
        UserError: for detections of an image that the ground truth does not hold.
        ValueError: for classes outside `class_names`.
    """
    n_classes = len(class_names)
    annotated = ground_truth_rows(ground_truth, convention)
    detected = detection_rows(ground_truth, detections, convention)
    check_classes(annotated.class_index, n_classes, name="ground truth")
    check_classes(detected.class_index, n_classes, name="detections")
    best, claimed = best_overlaps(detected, annotated, n_classes=n_classes, plus_one=convention.plus_one)
    difficult = annotated.weight > 0
    hit = (claimed >= 0) & convention.reaches(best, threshold)
    order, status = first_claims(claimed, hit, difficult, detected.weight)
    n_objects = np.bincount(annotated.class_index[~difficult], minlength=n_classes)
    return Matches(detected.class_index[order], status, n_objects)


def greedy_one_to_one(overlap: NDArray[np.floating]) -> NDArray[np.floating]:
    """Best one-to-one overlap of every object, taking the largest entry of the matrix again and again.

    Args:
        overlap: IoU (objects, proposals).

    Returns:
        (objects,), in the order of the objects; -1 for an object that no proposal is left for.
    """
    left = overlap.copy()
    matched = np.full(len(overlap), -1, dtype=overlap.dtype)
    for _ in range(min(overlap.shape)):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        matched[row] = left[row, column]
        left[row, :] = -1
        left[:, column] = -1
    return matched
