"""Box, area and stability of masks that are still logits, on the device where the logits lie."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weaksam_cli.propose.upsampling import MaskUpsampling

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
    counts = count_above(logits, (threshold, threshold + offset, threshold - offset))
    return _measures(logits.amax(dim=1) > threshold, logits.amax(dim=2) > threshold, counts)


def measure_low_resolution(
    low: Tensor, upsampling: MaskUpsampling, pixels: int, *, threshold: float = 0.0
) -> MaskMeasures:
    """Measure masks at the image's size from their low-resolution logits (m, h, w), float32.

    The measures are those of the upsampled logits; no more than `pixels` of them exist at once.
    """
    cuts = (threshold, threshold + STABILITY_OFFSET, threshold - STABILITY_OFFSET)
    height, width = upsampling.size
    columns = torch.zeros(len(low), width, dtype=torch.bool, device=low.device)
    rows = torch.zeros(len(low), height, dtype=torch.bool, device=low.device)
    counts = torch.zeros(len(low), len(cuts), dtype=torch.int64, device=low.device)
    step = max(1, pixels // (height * width))
    for start in range(0, len(low), step):
        some = slice(start, start + step)
        window = upsampling.window_above(low[some], min(cuts))
        for band, logits in upsampling.bands(low[some], window, pixels):
            columns[some, window.columns] |= logits.amax(dim=1) > threshold
            rows[some, band] = logits.amax(dim=2) > threshold
            counts[some] += count_above(logits, cuts)
    return _measures(columns, rows, counts)


def count_above(logits: Tensor, cuts: tuple[float, ...]) -> Tensor:
    """How many of the logits (m, H, W) are strictly above each cut: int64 (m, len(cuts))."""
    if logits.device.type == "cpu":
        # Counting true entries is a bit count in numpy and a conversion to 64-bit integers in torch: 12 times slower.
        counts = [[int(np.count_nonzero(mask > cut)) for cut in cuts] for mask in logits.numpy()]
        return torch.tensor(counts, dtype=torch.int64).reshape(len(logits), len(cuts))
    return torch.stack([(logits > cut).flatten(1).sum(1) for cut in cuts], dim=1)


def _measures(columns: Tensor, rows: Tensor, counts: Tensor) -> MaskMeasures:
    """From occupied columns (m, W) and rows (m, H) and the counts above the three thresholds."""
    left, right = _extent(columns)
    top, bottom = _extent(rows)
    boxes = torch.stack([left, top, right, bottom], dim=1).to(torch.float32)
    area, inner, outer = counts.unbind(dim=1)
    return MaskMeasures(boxes, area, inner.to(torch.float32) / outer.to(torch.float32))


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last of the true entries of each row of (m, length); (0, 0) where none is."""
    length = occupied.shape[1]
    flags = occupied.to(torch.uint8)
    some = occupied.any(dim=1)
    first = flags.argmax(dim=1)
    end = length - flags.flip(1).argmax(dim=1)
    return first * some, end * some
