"""What the clue networks have in common after the trunk: the kinds of maps, and small pure functions that make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttentionType = Literal["fused", "patchcam", "attention"]
"""Which map is refined: class attention times patch map, the patch map alone, or the class attention alone."""


@dataclass(frozen=True)
class ClueMaps:
    """Maps of k classes at the resolution of the patches.

    Attributes:
        coarse: float32 (B, k, h, w).
        fine: float32 (B, k, h, w).
        cross: float32 (B, k, m, h, w), m = heads * layers, numbered head * layers + layer; m may be 0.
    """

    coarse: Tensor
    fine: Tensor
    cross: Tensor


def patch_scores(head: nn.Conv2d, patch_map: Tensor, classes: Sequence[int]) -> Tensor:
    """The 3 x 3 convolution of patch tokens (B, width, h, w) for some classes: (B, k, h, w)."""
    rows = list(classes)
    bias = None if head.bias is None else head.bias[rows]
    return F.conv2d(patch_map.to(head.weight.dtype), head.weight[rows], bias, padding=1)


def choose_map(attention_type: AttentionType, class_attention: Tensor, patch_map: Tensor) -> Tensor:
    """The map (B, k, h, w) that is refined."""
    if attention_type == "patchcam":
        return patch_map
    return class_attention * patch_map if attention_type == "fused" else class_attention


def spread(affinity: Tensor, maps: Tensor) -> Tensor:
    """Every location becomes the sum of all locations, weighted by its row of the affinity.

    Args:
        affinity: (B, n, n), rows are where the result goes; not normalised.
        maps: (B, k, h, w) with h * w = n.
    """
    return torch.matmul(maps.flatten(2), affinity.mT).view_as(maps)


def cross_maps(
    class_rows: Tensor, classes: Sequence[int], layers: Sequence[int], grid: tuple[int, int]
) -> Tensor:
    """Attention of class tokens to patches, a map for each head of each layer.

    Args:
        class_rows: (B, heads, depth, C, n).
        classes: k of the C classes.
        layers: 0-based.
        grid: h and w.

    Returns:
        (B, k, heads * layers, h, w), numbered head * layers + layer.
    """
    chosen = class_rows[:, :, list(layers)][:, :, :, list(classes)]  # B, heads, layers, k, n
    return chosen.flatten(1, 2).transpose(1, 2).unflatten(-1, grid)
