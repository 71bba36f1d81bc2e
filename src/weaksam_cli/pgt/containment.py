"""Containment: which boxes lie within another box of the same image and class (spec 05 §4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.pgt.table import DetectionTable, Groups

Mutual = Literal["drop_both", "keep_best"]
ContainmentInput = Literal["fix", "as_released"]

EPSILON = 1e-6
"""Square pixels that the published code adds to an area before dividing by it."""
PAIRS_AT_ONCE = 1 << 18
"""Pairs that are compared in one step; the working arrays then stay in the processor's cache."""

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def containment(a: NDArray[np.floating], b: NDArray[np.floating]) -> Float64Array:
    """Share of every box of `a` that lies within every box of `b`: area(a and b) / (area(a) + 1e-6).

    Args:
        a: (..., n, 4) xyxy pixel edges.
        b: (..., m, 4) xyxy pixel edges.

    Returns:
        float64 (..., n, m); 0 for an empty box of `a`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    shares = _overlap(first[..., 0], first[..., 2], second[..., 0], second[..., 2])
    shares *= _overlap(first[..., 1], first[..., 3], second[..., 1], second[..., 3])
    area = (first[..., 2] - first[..., 0]) * (first[..., 3] - first[..., 1])
    shares /= area[..., :, None] + EPSILON
    return shares


def _overlap(
    low_a: Float64Array, high_a: Float64Array, low_b: Float64Array, high_b: Float64Array
) -> Float64Array:
    sides = np.minimum(high_a[..., :, None], high_b[..., None, :])
    sides -= np.maximum(low_a[..., :, None], low_b[..., None, :])
    return np.maximum(sides, 0, out=sides)


def contained(
    table: DetectionTable,
    *,
    threshold: float,
    mutual: Mutual = "drop_both",
    containment_input: ContainmentInput = "fix",
) -> BoolArray:
    """Which boxes lie, by at least `threshold`, within another box of the same image and class.

    Scores play no role: the enclosing box stays. All boxes of the table are compared, so that a box that is
    itself contained still removes others.

    Args:
        table: detections after the score filter.
        threshold: least share of the area (published: 0.85).
        mutual: what becomes of near duplicates, boxes that contain each other. `drop_both`: all of them go, as
            in the published code. `keep_best`: they are first reduced to the best-scored one, greedily, and what
            was reduced away removes nothing; then at least one box of every image and class remains.
        containment_input: `as_released` compares the boxes as the published VOC branch does, which hands xyxy
            boxes to a function that takes xywh; `fix` compares the boxes themselves.

    Returns:
        bool (n,).
    """
    boxes = table.boxes.astype(np.float64)
    if containment_input == "as_released":
        boxes[:, 2:] += boxes[:, :2]
    answer = np.zeros(len(table), dtype=bool)
    for rows in _batches(Groups.of(table)):
        within = containment(boxes[rows], boxes[rows]) >= threshold
        diagonal = np.arange(rows.shape[1])
        within[:, diagonal, diagonal] = False
        if mutual == "keep_best":
            answer[rows] = _contained_after_reduction(within, table.scores[rows])
        else:
            answer[rows] = within.any(axis=2)
    return answer


def _batches(groups: Groups) -> Iterator[NDArray[np.int64]]:
    """Rows of the groups of two boxes or more, (g, c) for groups of c boxes."""
    for count in np.unique(groups.counts[groups.counts > 1]):
        starts = groups.starts[groups.counts == count]
        step = max(1, PAIRS_AT_ONCE // int(count) ** 2)
        for low in range(0, len(starts), step):
            yield groups.order[starts[low : low + step, None] + np.arange(count)]


def _contained_after_reduction(within: BoolArray, scores: Float64Array) -> BoolArray:
    """`within` is bool (g, c, c); the answer (g, c) marks near duplicates of better boxes, and contained ones."""
    each_other = within & within.swapaxes(1, 2)
    groups = np.arange(len(scores))
    alive = np.ones(scores.shape, dtype=bool)
    undecided = np.ones(scores.shape, dtype=bool)
    for best in np.argsort(-scores, axis=1, kind="stable").T:
        undecided[groups, best] = False
        removes = alive[groups, best, None] & each_other[groups, best] & undecided
        alive &= ~removes
    remaining = within & ~each_other & alive[:, None, :]
    return ~alive | remaining.any(axis=2)
