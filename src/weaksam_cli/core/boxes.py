"""Boxes as float32 arrays (n, 4): xyxy, pixel edges, 0-based; a box of one pixel is 1 wide.

Conversions from other conventions stand here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float32]
Boxes = NDArray[Any]
"""float32 or float64, which the answers keep."""
IntArray = NDArray[np.int64]


def as_boxes(values: ArrayLike, *, name: str = "boxes", ordered: bool = False) -> FloatArray:
    """Return `values` as a float32 (n, 4) array; an empty sequence becomes (0, 4).

    Raises:
        ValueError: for another shape, coordinates that are not finite, or with `ordered` a box with x2 < x1 or y2 < y1.
    """
    boxes = np.asarray(values, dtype=np.float32)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected shape (n, 4), got {boxes.shape}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{name}: expected finite coordinates, got NaN or infinity")
    if ordered and (boxes[:, 2:] < boxes[:, :2]).any():
        wrong = boxes[(boxes[:, 2:] < boxes[:, :2]).any(axis=1)][0]
        raise ValueError(f"{name}: expected x1 <= x2 and y1 <= y2, got {wrong.tolist()}")
    return boxes


def area(boxes: Boxes, *, plus_one: bool = False) -> Boxes:
    """Areas in square pixels, (...) of boxes (..., 4); `plus_one` counts inclusive pixel indexes as older code does."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2] + np.float32(plus_one), 0)
    product: Boxes = sides[..., 0] * sides[..., 1]
    return product


def intersection(a: Boxes, b: Boxes, *, plus_one: bool = False) -> Boxes:
    """Intersection areas (...) of boxes (..., 4) that are broadcast against each other."""
    low = np.maximum(a[..., :2], b[..., :2])
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - low + np.float32(plus_one), 0)
    product: Boxes = sides[..., 0] * sides[..., 1]
    return product


def paired_iou(a: Boxes, b: Boxes, *, plus_one: bool = False) -> Boxes:
    """Intersection over union (...) of boxes (..., 4) that are broadcast against each other; 0 where both are empty."""
    overlap = intersection(a, b, plus_one=plus_one)
    union = area(a, plus_one=plus_one) + area(b, plus_one=plus_one) - overlap
    ratio: Boxes = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio


def iou(a: Boxes, b: Boxes, *, plus_one: bool = False) -> Boxes:
    """`paired_iou` of every box of `a` (n, 4) with every one of `b` (m, 4), shape (n, m)."""
    return paired_iou(a[:, None], b[None], plus_one=plus_one)


def nms(boxes: FloatArray, scores: NDArray[np.floating], threshold: float) -> IntArray:
    """`score_free_nms` by decreasing score, areas without +1; equal scores keep their order."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return order[score_free_nms(boxes[order], threshold, plus_one=False)]


def score_free_nms(boxes: FloatArray, threshold: float, *, plus_one: bool = True) -> IntArray:
    """Indexes of the boxes (n, 4) that greedy non-maximum suppression keeps, in the order given: an earlier box wins.

    A box is removed when its IoU with a kept one is strictly above `threshold` (spec 03 §4; the published code counts
    areas with +1).
    """
    alive = np.ones(len(boxes), dtype=bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        rest = np.flatnonzero(alive[index + 1 :]) + index + 1
        overlaps = paired_iou(boxes[index], boxes[rest], plus_one=plus_one)
        alive[rest[overlaps > threshold]] = False
    return np.asarray(kept, dtype=np.int64)


def clip(boxes: FloatArray, height: int, width: int) -> FloatArray:
    """Boxes cut to the image of `height` x `width` pixels."""
    limits = np.asarray([width, height, width, height], dtype=np.float32)
    return np.minimum(np.maximum(boxes, np.float32(0)), limits)


def scale(boxes: FloatArray, factor_x: float, factor_y: float) -> FloatArray:
    """Boxes of the image resized by the two factors (pixel edges scale without an offset)."""
    return boxes * np.asarray([factor_x, factor_y, factor_x, factor_y], dtype=np.float32)


def flip_horizontal(boxes: FloatArray, width: float) -> FloatArray:
    """Boxes of the image mirrored left to right."""
    flipped = boxes.copy()
    flipped[:, 0] = np.float32(width) - boxes[:, 2]
    flipped[:, 2] = np.float32(width) - boxes[:, 0]
    return flipped


def xyxy_to_xywh(boxes: FloatArray) -> FloatArray:
    """COCO's `bbox`: left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_to_xyxy(boxes: FloatArray) -> FloatArray:
    """From COCO's `bbox` to pixel edges."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def inclusive_to_edges(boxes: FloatArray) -> FloatArray:
    """From 0-based pixel indexes with both ends inside (SAM's box of a mask) to pixel edges."""
    return boxes + np.asarray([0, 0, 1, 1], dtype=np.float32)


def edges_to_inclusive(boxes: FloatArray) -> FloatArray:
    """From pixel edges to 0-based pixel indexes with both ends inside."""
    return boxes - np.asarray([0, 0, 1, 1], dtype=np.float32)


def voc_to_edges(boxes: FloatArray) -> FloatArray:
    """From VOC's 1-based pixel indexes with both ends inside to pixel edges."""
    return boxes - np.asarray([1, 1, 0, 0], dtype=np.float32)


def edges_to_voc(boxes: FloatArray) -> FloatArray:
    """From pixel edges to VOC's 1-based pixel indexes with both ends inside."""
    return boxes + np.asarray([1, 1, 0, 0], dtype=np.float32)
