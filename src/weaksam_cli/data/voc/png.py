"""Masks in PNGs as VOC has them: the number of an object or class in each pixel."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Stamp = tuple[int, int]
"""Time of the last change in nanoseconds, and bytes: what is kept of a file is its own as long as these are the same."""


def stamp_of(path: Path) -> Stamp:
    """Of a file.

    Raises:
        ValueError: there is none.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ValueError(f"{_named(path)} cannot be read ({error.strerror})") from None
    return found.st_mtime_ns, found.st_size


def mask_values(path: Path) -> NDArray[np.uint8]:
    """The PNG of an image, uint8 (height, width), which is asked for once for each of its objects.

    Raises:
        ValueError: it cannot be read, or has other values.
    """
    return _values(path, stamp_of(path))


@lru_cache(maxsize=4)
def _values(path: Path, _: Stamp) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as file:
            if file.mode not in ("P", "L"):
                raise ValueError(f"{_named(path)}: expected a palette or grey PNG, got {file.mode}")
            return np.asarray(file, dtype=np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{_named(path)} cannot be read ({error})") from None


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def voc_palette() -> bytes:
    """VOC's 256 colours: the bits of the index dealt in turn to red, green and blue, highest first."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((np.arange(256) >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours.tobytes()
