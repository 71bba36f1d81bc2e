"""From an image to what CLIP sees of it (spec 01 §c.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)
"""Of the images that CLIP was trained on, RGB in [0, 1]."""


def input_size(height: int, width: int, *, patch: int = 16, max_side: int | None = None) -> tuple[int, int]:
    """(height, width) at which an image is shown: each side rounded up to a multiple of the patch.

    Args:
        height, width: of the image, pixels.
        patch: side of a patch, pixels.
        max_side: an image whose longer side is larger is shrunk to it first; null for never.
    """
    longer = max(height, width)
    limit = longer if max_side is None else min(longer, max_side)
    # In whole numbers: a rounding error would cost a row of patches.
    return -(-height * limit // (longer * patch)) * patch, -(-width * limit // (longer * patch)) * patch


def preprocess(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """An image uint8 RGB (H, W, 3) as float32 (1, 3, *size), resized bicubically and normalised for CLIP."""
    import torch

    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    scaled = np.asarray(resized, dtype=np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(MEAN, np.float32)) / np.asarray(DEVIATION, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)[None]))
