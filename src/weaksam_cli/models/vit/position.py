"""Position embeddings for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 0.1
"""Added to the number of patches before the division, so that rounding never loses a row; it enters the sampling."""


def positions_for(pos_embed: Tensor, n_classes: int, size: tuple[int, int], patch: int) -> Tensor:
    """The position embedding of an image.

    The patch part is resized bicubically by a *scale factor*, (patches + 0.1) / (native patches), which itself enters the
    sampling grid: a resize to the same output size gives other numbers. A square image with the native number of patches
    takes the embedding as it is (spec 01 §a.1).

    Args:
        pos_embed: (1, C + g * g, width), classes first, patches row-major.
        n_classes: C.
        size: height and width of the image in pixels.
        patch: side of a patch.

    Returns:
        (1, C + h * w, width) with h, w whole patches.
    """
    height, width = size
    rows, columns = height // patch, width // patch
    classes, patches = pos_embed[:, :n_classes], pos_embed[:, n_classes:]
    side = native_side(patches.shape[1])
    if rows * columns == side * side and height == width:
        return pos_embed
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((rows + MARGIN) / side, (columns + MARGIN) / side)
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([classes, resized.flatten(2).transpose(1, 2)], dim=1)


def native_side(patches: int) -> int:
    """Side of the square grid that a network was made for.

    Raises:
        ValueError: when the number of patches is no square.
    """
    side = round(patches**0.5)
    if side < 1 or side * side != patches:
        raise ValueError(f"expected positions of a square of patches, got {patches}")
    return side
