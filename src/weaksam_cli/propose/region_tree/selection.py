"""Which of the ranked boxes make up a list of limited length: good ones that differ from those already chosen."""

from __future__ import annotations

import numpy as np

from weaksam_cli.propose.region_tree.leaves import FloatArray, IntArray
from weaksam_cli.propose.region_tree.settings import RegionTreeSettings


def select(boxes: FloatArray, quality: FloatArray, max_boxes: int, settings: RegionTreeSettings) -> IntArray:
    """Indexes of at most `max_boxes` boxes (n, 4), the first chosen first.

    First come up to `diverse_boxes` of non-maximum suppression with `diverse_iou`, then boxes that overlap those chosen
    by no more than `precise_iou`: a short list is diverse, a long one precise as well.
    """
    order = np.argsort(-quality, kind="stable")
    diverse = order[_suppress(boxes[order], min(max_boxes, settings.diverse_boxes), settings.diverse_iou)]
    if len(diverse) == max_boxes:
        return diverse
    order = np.concatenate([diverse, order[~np.isin(order, diverse)]])
    return order[_suppress(boxes[order], max_boxes, settings.precise_iou)]


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
