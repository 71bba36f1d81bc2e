"""Box, area and stability of masks that are still logits, on the device where the logits lie."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STABILITY_OFFSET = 1.0
"""SAM's automatic mask generation shifts the threshold by this much to judge stability (spec 03 §2)."""


class MaskMeasures(NamedTuple):
    """Measures of m masks.

    Attributes:
        boxes: float32 (m, 4), tight, xyxy pixel edges; all zero for an empty mask.
        area: int64 (m,), pixels above the threshold.
        stability: float32 (m,), NaN where no pixel is above the lowered threshold.
    """

    boxes: Tensor
    area: Tensor
    stability: Tensor


def measure_logits(
    logits: Tensor, *, threshold: float = 0.0, offset: float = STABILITY_OFFSET
) -> MaskMeasures:
    """Measure masks `logits > threshold` (m, H, W).

    Stability is |logits > threshold + offset| / |logits > threshold - offset|: the IoU of the masks at a raised and a
    lowered threshold, one of which contains the other.
    """
    masks = logits > threshold
    return MaskMeasures(
        tight_boxes(masks),
        masks.flatten(1).sum(1),
        stability(logits, threshold=threshold, offset=offset),
    )


def stability(logits: Tensor, *, threshold: float = 0.0, offset: float = STABILITY_OFFSET) -> Tensor:
    """Stability scores (m,) of logits (m, H, W), float32; 0/0 is NaN."""
    inner = (logits > threshold + offset).flatten(1).sum(1)
    outer = (logits > threshold - offset).flatten(1).sum(1)
    return inner.to(torch.float32) / outer.to(torch.float32)


def tight_boxes(masks: Tensor) -> Tensor:
    """Tight boxes (m, 4) of boolean masks (m, H, W), float32 xyxy pixel edges; all zero for an empty mask."""
    left, right = _extent(masks.any(dim=1))
    top, bottom = _extent(masks.any(dim=2))
    return torch.stack([left, top, right, bottom], dim=1).to(torch.float32)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last of the true entries of each row of (m, length); (0, 0) where none is."""
    length = occupied.shape[1]
    flags = occupied.to(torch.uint8)
    some = occupied.any(dim=1)
    first = flags.argmax(dim=1)
    end = length - flags.flip(1).argmax(dim=1)
    return first * some, end * some
