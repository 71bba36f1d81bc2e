"""Which of the ranked boxes make up a list of limited length: good ones that differ from those already chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weaksam_cli.propose.region_tree.leaves import FloatArray, IntArray


def select(boxes: FloatArray, quality: FloatArray, max_boxes: int, thresholds: Sequence[float]) -> IntArray:
    """Indexes of at most `max_boxes` boxes (n, 4), the first chosen first.

    Non-maximum suppression with the first threshold; while room is left, again with the next one, which lets boxes in
    that the former suppressed. So a short list is diverse, and a long one precise as well.
    """
    order = np.argsort(-quality, kind="stable")
    kept = np.zeros(0, np.int64)
    for threshold in thresholds:
        rest = order[~np.isin(order, kept)]
        order = np.concatenate([kept, rest])
        kept = order[_suppress(boxes[order], max_boxes, threshold)]
        if len(kept) == max_boxes:
            break
    return kept


def _suppress(boxes: FloatArray, max_boxes: int, threshold: float) -> IntArray:
    """The first `max_boxes` boxes that overlap no earlier one kept by more than `threshold`."""
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.T)
    area = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == max_boxes:
            break
        later = slice(index + 1, None)
        width = np.minimum(x1[index], x1[later]) - np.maximum(x0[index], x0[later])
        height = np.minimum(y1[index], y1[later]) - np.maximum(y0[index], y0[later])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        alive[later] &= shared <= threshold * (area[index] + area[later] - shared)
    return np.asarray(kept, np.int64)
