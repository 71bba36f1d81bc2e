"""Masks that are still logits at low resolution: to the image's own size in pieces, and what is measured of them.

SAM brings logits to the network's side (bilinear), cuts the padding off, and resizes to the image (bilinear). Both steps
are linear and separable, so along each axis the two are one banded matrix of at most three entries a row. Applied directly
it gives the same logits up to float32 rounding without the image in between, for any rows and columns that are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STABILITY_OFFSET = 1.0
"""SAM's automatic mask generation shifts the threshold by this much for the stability (spec 03 §2)."""

_BLOCK = 128
"""Outputs of one matrix product; the fewer, the fewer zeros of the band are multiplied."""

_MOST_BLOCKS = 8
"""On a GPU, where every product costs a launch."""


def bilinear_matrix(size: int, target: int) -> NDArray[np.float32]:
    """The matrix (target, size) of a bilinear resize with `align_corners=False`, in the float32 steps of torch."""
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(target)
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + half) - half, np.float32(0))
    low = np.minimum(position.astype(np.int64), size - 1)
    share = position - low.astype(np.float32)
    matrix = np.zeros((target, size), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), np.float32(1) - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), share)
    return matrix


class AxisUpsampling:
    """One axis of the way from `size` logits to `network` pixels, of which the first `kept` become `target`.

    Attributes:
        matrix: (target, size).
        first, stop: int64 (target,), the range of inputs that an output depends on; both do not decrease.
    """

    def __init__(self, size: int, network: int, kept: int, target: int, device: torch.device) -> None:
        first_step = bilinear_matrix(size, network)[:kept].astype(np.float64)
        matrix = (bilinear_matrix(kept, target).astype(np.float64) @ first_step).astype(np.float32)
        filled = matrix != 0
        self.matrix = torch.from_numpy(matrix).to(device)
        self.first = np.maximum.accumulate(filled.argmax(axis=1))
        self.stop = np.maximum.accumulate(size - filled[:, ::-1].argmax(axis=1))

    def reached_from(self, low: int, high: int) -> slice:
        """The outputs that depend on any of the inputs low, ..., high - 1."""
        return slice(
            int(np.searchsorted(self.stop, low, side="right")),
            int(np.searchsorted(self.first, high, side="left")),
        )

    def blocks(self, wanted: slice) -> Iterator[tuple[slice, slice, Tensor]]:
        """Pieces of the outputs in `wanted`: (outputs relative to its start, inputs, matrix (outputs, inputs))."""
        most = _MOST_BLOCKS if self.matrix.device.type == "cuda" else len(self.first)
        size = max(_BLOCK, math.ceil((wanted.stop - wanted.start) / most))
        for start in range(wanted.start, wanted.stop, size):
            stop = min(start + size, wanted.stop)
            inputs = slice(int(self.first[start]), int(self.stop[stop - 1]))
            yield slice(start - wanted.start, stop - wanted.start), inputs, self.matrix[start:stop, inputs]


class Window(NamedTuple):
    """A part of the image: rows and columns."""

    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class MaskUpsampling:
    """Low-resolution logits of one image to its own size.

    Args:
        low_size: height and width of the logits.
        network_side: side of the square that the network sees.
        input_size: height and width of the image within that square.
        original_size: height and width of the image.
        device: where the logits lie.
    """

    def __init__(
        self,
        low_size: tuple[int, int],
        network_side: int,
        input_size: tuple[int, int],
        original_size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._rows, self._columns = (
            AxisUpsampling(size, network_side, kept, target, device)
            for size, kept, target in zip(low_size, input_size, original_size, strict=True)
        )
        self.size = original_size

    def window_above(self, low: Tensor, threshold: float) -> Window:
        """Where logits of the masks `low` (m, h, w) can be above `threshold`; outside of it none is.

        An upsampled logit is a weighted mean of those it depends on, so none exceeds their largest.
        """
        # A weighted mean of equal numbers may round to above them.
        high = low.amax(dim=0) > threshold - 1e-4 * max(1.0, abs(threshold))
        rows, columns = high.any(dim=1).nonzero(), high.any(dim=0).nonzero()
        if not len(rows):
            return Window(slice(0, 0), slice(0, 0))
        return Window(
            self._rows.reached_from(int(rows[0]), int(rows[-1]) + 1),
            self._columns.reached_from(int(columns[0]), int(columns[-1]) + 1),
        )

    def bands(self, low: Tensor, window: Window, pixels: int) -> Iterator[tuple[slice, Tensor]]:
        """The logits of `low` (m, h, w) within `window`, a band of rows at a time.

        Yields:
            (rows of the image, logits (m, rows, columns)), at most `pixels` logits unless one row has more.
        """
        height, width = window.shape
        if not height or not width:
            return
        wide = low.new_empty(*low.shape[:2], width)
        for outputs, inputs, matrix in self._columns.blocks(window.columns):
            torch.matmul(low[..., inputs], matrix.T, out=wide[..., outputs])
        step = max(1, pixels // (len(low) * width))
        for start in range(window.rows.start, window.rows.stop, step):
            rows = slice(start, min(start + step, window.rows.stop))
            band = low.new_empty(len(low), rows.stop - rows.start, width)
            for outputs, inputs, matrix in self._rows.blocks(rows):
                torch.matmul(matrix, wide[:, inputs], out=band[:, outputs])
            yield rows, band


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


def measure_masks(low: Tensor, upsampling: MaskUpsampling, pixels: int, threshold: float) -> MaskMeasures:
    """Measure masks, logits above `threshold` at the image's size, from low-resolution logits (m, h, w), float32.

    No more than `pixels` of the upsampled logits exist at once. Stability is |logits > threshold + offset| / |logits >
    threshold - offset|: the IoU of the masks at a raised and a lowered threshold, one of which contains the other.
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
            counts[some] += _count_above(logits, cuts)
    (left, right), (top, bottom) = _extent(columns), _extent(rows)
    area, inner, outer = counts.unbind(dim=1)
    boxes = torch.stack([left, top, right, bottom], dim=1).to(torch.float32)
    return MaskMeasures(boxes, area, inner.to(torch.float32) / outer.to(torch.float32))


def _count_above(logits: Tensor, cuts: tuple[float, ...]) -> Tensor:
    """How many of the logits (m, H, W) are strictly above each cut: int64 (m, len(cuts))."""
    if logits.device.type == "cpu":
        # Counting true entries is a bit count in numpy and a conversion to 64-bit integers in torch: 12 times slower.
        return torch.tensor([[int(np.count_nonzero(mask > cut)) for cut in cuts] for mask in logits.numpy()])
    return torch.stack([(logits > cut).flatten(1).sum(1) for cut in cuts], dim=1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last of the true entries of each row of (m, length); (0, 0) where none is."""
    flags, some = occupied.to(torch.uint8), occupied.any(dim=1)
    end = occupied.shape[1] - flags.flip(1).argmax(dim=1)
    return flags.argmax(dim=1) * some, end * some
