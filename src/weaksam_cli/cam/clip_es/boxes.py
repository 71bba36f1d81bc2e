"""Boxes around the bright parts of a map (spec 01 §c.3, step 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]


def scoremap_boxes(cam: NDArray[np.float32], threshold: float, *, cover_border: bool = False) -> list[Box]:
    """(x0, y0, x1, y1) in cells, half-open, around every contour, outer and inner, in OpenCV's order.

    Args:
        cam: float32 (h, w) in [0, 1].
        threshold: cells above this fraction of the largest value are bright, in 8-bit steps.
        cover_border: let boxes reach the right and lower border. The published code cuts x1 to w - 1 and y1 to h - 1, so
            that no box covers the last column or row.

    Returns:
        One empty box (0, 0, 0, 0) where nothing is bright, as published.
    """
    import cv2

    levels = (cam * np.float32(255)).astype(np.uint8)
    bright = (levels > int(threshold * levels.max())).astype(np.uint8)
    contours = cv2.findContours(bright, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    height, width = cam.shape
    right, lower = (width, height) if cover_border else (width - 1, height - 1)
    boxes = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append((x, y, min(x + w, right), min(y + h, lower)))
    return boxes or [(0, 0, 0, 0)]


def box_mask(boxes: Sequence[Box], height: int, width: int) -> NDArray[np.bool_]:
    """bool (height, width), True inside any box."""
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask
