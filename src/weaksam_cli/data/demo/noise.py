"""Textures from smoothed random numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatImage = NDArray[np.float32]


def value_noise(
    rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float
) -> FloatImage:
    """Smooth noise in [0, 1], float32 (height, width), with features of about `cell_y` x `cell_x` pixels."""
    rows, columns = max(2, round(height / cell_y) + 2), max(2, round(width / cell_x) + 2)
    grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    smooth = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(smooth, 0, 1)


def cloudy(
    rng: np.random.Generator, height: int, width: int, cell: float, *, stretch: float = 1.0
) -> FloatImage:
    """Four octaves of noise in [0, 1], float32 (height, width); `stretch` makes features wider than high."""
    total = np.zeros((height, width), dtype=np.float32)
    weight = 0.0
    for octave in range(4):
        scale = cell / 2**octave
        total += value_noise(rng, height, width, scale, scale * stretch) / 2**octave
        weight += 0.5**octave
    return total / np.float32(weight)


def ridge(rng: np.random.Generator, width: int, base: float, swing: float, cell: float) -> FloatImage:
    """A horizon line: rows, float32 (width,), around `base` by `swing`."""
    line = cloudy(rng, 4, width, cell)[0]
    return base + (line - 0.5) * 2 * np.float32(swing)
