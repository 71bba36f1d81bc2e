"""The views of an image that a class-token transformer is shown (spec 01 §a.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEAN: Final = np.asarray([0.485, 0.456, 0.406], np.float32)
DEVIATION: Final = np.asarray([0.229, 0.224, 0.225], np.float32)
"""ImageNet's, of RGB in [0, 1]."""


@dataclass(frozen=True)
class Views:
    """An image at several sizes; mirror images are made where they are needed.

    Attributes:
        image_size: height and width of the image.
        pixels: float32 (3, h, w), normalised, one for each scale.
    """

    image_size: tuple[int, int]
    pixels: tuple[NDArray[np.float32], ...]


def make_views(image: NDArray[np.uint8], scales: Sequence[float], *, max_side: int, patch: int) -> Views:
    """The image at every scale, by Pillow's bicubic resizing.

    Args:
        image: uint8 RGB (H, W, 3).
        scales: factors of both sides; sizes are rounded half to even, and are not made multiples of the patch.
        max_side: an image whose longer side is larger is seen at this size before it is scaled.
        patch: least side of a view.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, max_side / max(height, width))
    pil_image = Image.fromarray(image)
    pixels = []
    for scale in scales:
        size = max(patch, round(width * shrink * scale)), max(patch, round(height * shrink * scale))
        resized = pil_image if size == pil_image.size else pil_image.resize(size, Image.Resampling.BICUBIC)
        values = (np.asarray(resized, np.float32) / np.float32(255) - MEAN) / DEVIATION
        pixels.append(np.ascontiguousarray(values.transpose(2, 0, 1)))
    return Views((height, width), tuple(pixels))
