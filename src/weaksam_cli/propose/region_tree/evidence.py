"""Activation maps as evidence for regions: how much stronger a map is inside a box than around it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree.leaves import FloatArray

_SURROUND = 0.25
"""The surround of a box reaches this share of its sides beyond it."""


class Evidence:
    """Activation maps of one image.

    Args:
        maps: float (c, any h, any w) in [0, 1], one map per class, stretched over the image.
        height, width: working size of the image.

    Raises:
        ValueError: for another shape, values outside [0, 1] or not finite.
    """

    def __init__(self, maps: NDArray[np.floating], height: int, width: int) -> None:
        if maps.ndim != 3 or maps.shape[0] == 0 or min(maps.shape[1:]) == 0:
            raise ValueError(f"evidence: expected shape (classes, h, w) without a zero, got {maps.shape}")
        if not (np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1):
            raise ValueError("evidence: expected finite values in [0, 1]")
        strongest = maps.max(axis=0).astype(np.float32)
        stretched = cv2.resize(strongest, (width, height), interpolation=cv2.INTER_LINEAR)
        self._integral = np.asarray(cv2.integral(stretched), np.float64)

    def contrast(self, boxes: FloatArray) -> FloatArray:
        """Mean of the strongest map inside every box minus its mean in the surround, shape (n,)."""
        height, width = self._integral.shape[0] - 1, self._integral.shape[1] - 1
        margin = np.ceil((boxes[:, 2:] - boxes[:, :2]) * _SURROUND)
        grown = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
        grown = np.clip(grown, 0, np.asarray([width, height, width, height], np.float32))
        inside, area = self._sum(boxes)
        outside, grown_area = self._sum(grown)
        ring_area = np.maximum(grown_area - area, 1)
        result: FloatArray = (inside / area - (outside - inside) / ring_area).astype(np.float32)
        return result

    def _sum(self, boxes: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x0, y0, x1, y1 = boxes.astype(np.int64).T
        table = self._integral
        area = ((x1 - x0) * (y1 - y0)).astype(np.float64)
        return table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0], area
