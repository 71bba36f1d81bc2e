"""How good a region is as an object, by cues alone (nothing is learnt from boxes), and which make up a short list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weaksam_cli.core.boxes import FloatArray, IntArray
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.trees import Forest

_CHUNK = 256
_PEERS = 401
"""Nodes next in size that a node is compared with, itself in the middle."""


@dataclass(frozen=True)
class Candidates:
    """The distinct boxes of a forest of m nodes that are large enough.

    Attributes:
        boxes: float32 (c, 4), xyxy pixel edges.
        node: int64 (c,), the node of best quality with this box.
        quality: float32 (c,), in [0, 1], relative to the other boxes of the image.
        node_quality: float32 (m,), of every node; those too small for a candidate have 0.
    """

    boxes: FloatArray
    node: IntArray
    quality: FloatArray
    node_quality: FloatArray


def rank(forest: Forest, settings: TreeSettings) -> Candidates:
    """The candidates, in no order: boxes of nodes that are not below `min_side`."""
    sides = forest.boxes[:, 2:] - forest.boxes[:, :2]
    # The root's box must stay: in a small or uniform image it is all there is.
    image = np.asarray(forest.labels.shape[:0:-1], np.float32)
    large = np.flatnonzero((sides >= np.minimum(settings.min_side, image)).all(axis=1))
    boxes, inverse = _distinct(forest.boxes[large])
    # Nobody knows since when a leaf is there, so its life does not count.
    lifetime = np.where(forest.level > 0, forest.persistence(), 0)[large]

    def best(values: FloatArray) -> FloatArray:
        """Of the values of the nodes that have a box, for every box (c,)."""
        result = np.full(len(boxes), -np.inf, np.float32)
        np.maximum.at(result, inverse, values.astype(np.float32))
        return result

    # In how many trees every box is found.
    trees = len(forest.tree_labels)
    found = np.unique(inverse * trees + forest.tree[large]) // trees
    votes = np.bincount(found, minlength=len(boxes)).astype(np.float32)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    terms = [
        (1.0, best(lifetime)),
        (settings.consensus_weight, consensus(boxes, votes, settings.consensus_iou)),
        (settings.place_weight, best(-forest.place()[large].astype(np.float32))),
        (settings.fill_weight, best(forest.size[large]) / (width * height)),
        (settings.shape_weight, -np.abs(np.log(width / height))),
    ]
    quality = np.zeros(len(boxes), np.float32)
    for weight, term in terms:
        quality += np.float32(weight) * relative_rank(term)
    quality /= np.float32(sum(weight for weight, _ in terms))
    node = np.empty(len(boxes), np.int64)
    longest_last = np.lexsort((lifetime, inverse))
    node[inverse[longest_last]] = large[longest_last]
    node_quality = np.zeros(len(forest), np.float32)
    node_quality[large] = quality[inverse]
    return Candidates(boxes, node, quality, node_quality)


def consensus(boxes: FloatArray, votes: FloatArray, threshold: float) -> FloatArray:
    """Votes of boxes that overlap by more than `threshold`, weighted from 0 there to 1 for equal boxes; shape (c,)."""
    total = np.empty(len(boxes), np.float32)
    # The ratio of two areas bounds the IoU, so only boxes of like area need comparing.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(area, kind="stable")
    boxes, votes, area = boxes[order], votes[order], area[order]
    for start in range(0, len(boxes), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(boxes)))
        low = np.searchsorted(area, area[rows.start] * threshold, side="left")
        high = np.searchsorted(area, area[rows.stop - 1] / threshold, side="right")
        overlap = _iou(boxes[rows], area[rows], boxes[low:high], area[low:high])
        overlap -= np.float32(threshold)
        np.maximum(overlap, 0, out=overlap)
        total[order[rows]] = overlap @ votes[low:high] / np.float32(1 - threshold)
    return total


def among_peers(quality: FloatArray, size: FloatArray) -> FloatArray:
    """Share of the nodes of like size (m,) that have less quality, in [0, 1), shape (m,)."""
    order = np.argsort(size, kind="stable")
    half = min(_PEERS // 2, (len(order) - 1) // 2)
    ordered = quality[order]
    windows = np.lib.stride_tricks.sliding_window_view(ordered, 2 * half + 1)
    # Nodes near either end have the window that begins or ends there.
    window = np.clip(np.arange(len(order)) - half, 0, len(windows) - 1)
    share = np.empty(len(order), np.float32)
    for start in range(0, len(order), 1024):
        some = slice(start, start + 1024)
        share[order[some]] = (windows[window[some]] < ordered[some, None]).mean(axis=1)
    return share


def relative_rank(values: FloatArray) -> FloatArray:
    """Place of every value among all, 0 for the least and 1 for the greatest, equal values sharing a place; (n,)."""
    ordered = np.sort(values)
    place = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right") - 1
    result: FloatArray = (place / max(2 * (len(values) - 1), 1)).astype(np.float32)
    return result


def _iou(a: FloatArray, area_a: FloatArray, b: FloatArray, area_b: FloatArray) -> FloatArray:
    width = np.minimum(a[:, 2, None], b[:, 2]) - np.maximum(a[:, 0, None], b[:, 0])
    height = np.minimum(a[:, 3, None], b[:, 3]) - np.maximum(a[:, 1, None], b[:, 1])
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    ratio: FloatArray = overlap / (area_a[:, None] + area_b - overlap)
    return ratio


def _distinct(boxes: FloatArray) -> tuple[FloatArray, IntArray]:
    """Distinct boxes and, for every given box, which of them it is."""
    code = np.zeros(len(boxes), np.int64)
    for column in boxes.T.astype(np.int64):
        code = (code << 15) + column
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return boxes[first], inverse


def select(boxes: FloatArray, quality: FloatArray, max_boxes: int, settings: TreeSettings) -> IntArray:
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
