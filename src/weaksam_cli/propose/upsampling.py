"""From SAM's low-resolution logits to the image's own size, in pieces of bounded size.

SAM brings logits to the network's side (bilinear), cuts the padding off, and resizes to the image (bilinear). Both steps
are linear and separable, so along each axis the two are one banded matrix of at most three entries a row. Applied directly
it gives the same logits up to float32 rounding without the image in between, for any rows and columns that are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


@dataclass(frozen=True)
class AxisUpsampling:
    """One axis of the way from low-resolution logits to the image.

    Attributes:
        matrix: (target, size).
        first, stop: int64 (target,), the range of inputs that an output depends on; both do not decrease.
    """

    matrix: Tensor
    first: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def of(cls, size: int, network: int, kept: int, target: int, device: torch.device) -> AxisUpsampling:
        """Along one axis: `size` logits to `network` pixels, of which the first `kept` become `target`."""
        first_step = bilinear_matrix(size, network)[:kept].astype(np.float64)
        matrix = (bilinear_matrix(kept, target).astype(np.float64) @ first_step).astype(np.float32)
        filled = matrix != 0
        first = np.maximum.accumulate(filled.argmax(axis=1))
        stop = np.maximum.accumulate(size - filled[:, ::-1].argmax(axis=1))
        return cls(torch.from_numpy(matrix).to(device), first, stop)

    def __len__(self) -> int:
        return len(self.first)

    def reached_from(self, low: int, high: int) -> slice:
        """The outputs that depend on any of the inputs low, ..., high - 1."""
        return slice(
            int(np.searchsorted(self.stop, low, side="right")),
            int(np.searchsorted(self.first, high, side="left")),
        )

    def blocks(self, wanted: slice) -> Iterator[tuple[slice, slice, Tensor]]:
        """Pieces of the outputs in `wanted`: (outputs relative to its start, inputs, matrix (outputs, inputs))."""
        most = _MOST_BLOCKS if self.matrix.device.type == "cuda" else len(self)
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
            AxisUpsampling.of(size, network_side, kept, target, device)
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
