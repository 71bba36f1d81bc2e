"""Masks as polygons whose corners lie on pixel edges; `data.outlines` is the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import masks

Ring = NDArray[np.int32]
"""(n, 2): x, y of the corners of a closed outline, pixel edges, 0-based; at least three."""

_TOLERANCES: Final = (1.0, 0.75, 0.5, 0.0)
"""Pixels that a simpler outline may lie beside the exact one, the coarsest first; at 0 it is the exact one."""
LEAST_IOU: Final = 0.98
"""Of a simpler outline with its mask; tests/core/test_polygons.py holds it against pycocotools."""


def rings(mask: NDArray[np.bool_], tolerance: float = 0.0) -> list[Ring]:
    """Outer and inner outlines of a mask (H, W), the longest first; by the even-odd rule they are the mask.

    OpenCV follows the centres of the pixels along a border. On an image of twice the size those lie a half pixel of ours
    inside of the true edge, so that rounding up gives the edge itself.

    Args:
        mask: any, also of several parts and with holes.
        tolerance: pixels that corners which are left out may lie beside the outline (Douglas and Peucker).
    """
    import cv2

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    left, top = int(columns[0]), int(rows[0])
    tight = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    double = tight.repeat(2, axis=0).repeat(2, axis=1)
    found, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for contour in found:
        ring = (contour[:, 0].astype(np.int32) + 1) // 2 + np.asarray((left, top), np.int32)
        ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
        if tolerance:
            ring = cv2.approxPolyDP(ring[:, None], tolerance, closed=True)[:, 0]
        if len(ring) >= 3:
            outlines.append(ring)
    return sorted(outlines, key=_length, reverse=True)


def joined(outlines: Sequence[Ring]) -> Ring:
    """One outline of all, at least one: cuts of no width lead from part to part and into the holes.

    So Ultralytics joins the parts of an object; whoever fills by the even-odd rule gets the same mask.
    """
    whole = outlines[0]
    for ring in outlines[1:]:
        between = np.abs(whole[:, None] - ring[None]).sum(axis=-1)
        here, there = np.unravel_index(int(between.argmin()), between.shape)
        tour = [np.roll(ring, -int(there), axis=0), ring[there : there + 1]]
        whole = np.concatenate([whole[: here + 1], *tour, whole[here:]])
    return whole


def outline(counts: bytes, height: int, width: int) -> Ring | None:
    """A mask (compressed RLE of that size) as one simple polygon, parts and holes `joined`; None for an empty one.

    It has as few corners as `_TOLERANCES` allow where the IoU with the mask is `LEAST_IOU` or more, as pycocotools fills it.
    """
    from pycocotools import mask as coco_mask

    mask = masks.decode([counts], height, width)[0]
    whole, size = None, [height, width]
    for tolerance in _TOLERANCES:
        if not (found := rings(mask, tolerance)):
            continue
        whole = joined(found)
        filled = coco_mask.frPyObjects([whole.reshape(-1).astype(float).tolist()], height, width)
        if coco_mask.iou(filled, [{"size": size, "counts": counts}], [0])[0, 0] >= LEAST_IOU:
            break
    return whole


def _length(ring: Ring) -> int:
    return int(np.abs(ring - np.roll(ring, 1, axis=0)).sum())
