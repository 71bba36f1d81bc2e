"""Resizing images as detectron2 does; it needs no detectron2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resized_shape(height: int, width: int, short_side: int, max_size: int) -> tuple[int, int]:
    """Height and width when the shorter side becomes `short_side`, unless the longer would exceed `max_size`."""
    factor = short_side / min(height, width)
    if max(height, width) * factor > max_size:
        factor = max_size / max(height, width)
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image (H, W, 3) at `height` x `width`, bilinear with antialiasing as detectron2 resizes."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
