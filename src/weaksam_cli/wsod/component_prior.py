"""Class maps as a prior over proposals: IoU with the box of the map's largest component, at several thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes, iou


def component_box(heat: NDArray[np.float32], threshold: float) -> FloatArray:
    """Box (1, 4) of the largest 8-connected component where a normalised map (H, W) reaches `threshold`; or (0, 4)."""
    import cv2

    mask = (heat >= np.float32(threshold)).astype(np.uint8)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return as_boxes([])
    left, top, width, height, _ = statistics[1 + int(statistics[1:, 4].argmax())].tolist()
    return as_boxes([[left, top, left + width, top + height]])


def component_prior(
    boxes: FloatArray, maps: NDArray[np.float32], thresholds: Sequence[float]
) -> NDArray[np.float32]:
    """Mean over thresholds of the IoU of each proposal with the component's box.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        maps: float32 (k, H, W), normalised to [0, 1], at image size.
        thresholds: where the maps are cut.

    Returns:
        float32 (R, k), in [0, 1].
    """
    prior = np.zeros((len(boxes), len(maps)), np.float32)
    for column, heat in enumerate(maps):
        for threshold in thresholds:
            found = component_box(heat, threshold)
            if len(found):
                prior[:, column] += iou(boxes, found)[:, 0]
    return prior / np.float32(max(len(thresholds), 1))
