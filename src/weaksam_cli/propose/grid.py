"""Spatial prompts: a regular grid of points, and the filters of SAM's automatic mask generation (spec 03 §2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core import boxes as box_ops


@dataclass(frozen=True)
class GridFilter:
    """Which masks of the grid become proposals; the defaults are what the published scripts run with.

    Attributes:
        predicted_iou: keep masks whose predicted IoU is strictly above.
        stability: keep masks whose stability is at least this; empty masks never pass.
        nms: class-agnostic NMS removes a box whose IoU with a better one is strictly above.
    """

    predicted_iou: float = 0.3
    stability: float = 0.3
    nms: float = 0.3


def grid_points(points_per_side: int, height: int, width: int) -> NDArray[np.float32]:
    """Points (points_per_side squared, 2), x fastest, at ((i + 0.5) / n) of the width and height in pixels.

    Raises:
        ValueError: for fewer than no points.
    """
    if points_per_side < 0:
        raise ValueError(f"points_per_side: expected 0 or more, got {points_per_side}")
    fractions = (np.arange(points_per_side) + 0.5) / max(points_per_side, 1)
    y, x = np.meshgrid(fractions * height, fractions * width, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def filter_grid(proposals: Proposals, settings: GridFilter) -> Proposals:
    """The proposals that pass `settings`, by decreasing predicted IoU.

    The published code suppresses boxes of inclusive pixel indexes with areas that do not count the last pixel, so a
    box is one pixel smaller on each axis than here; the conversion keeps its choices.
    """
    good = (proposals.predicted_iou > settings.predicted_iou) & (proposals.stability >= settings.stability)
    candidates = proposals.take(good)
    inclusive = box_ops.edges_to_inclusive(candidates.boxes)
    # torchvision compares a float32 IoU with a float64 threshold: an IoU of exactly 3/10 is above 0.3.
    threshold = np.float64(settings.nms)
    return candidates.take(box_ops.nms(inclusive, candidates.predicted_iou, threshold))
