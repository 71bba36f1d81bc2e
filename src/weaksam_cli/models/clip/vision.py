"""CLIP's vision transformer block by block: patch tokens, head-averaged attention, and the last block with gradients.

The blocks are `open_clip`'s; walking over them takes the place of its `forward`, which gives no attention and has the class
token alone pooled. Numbers and order: spec 01 §c.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Trunk:
    """An image before the last block.

    Attributes:
        tokens: float32 (1, 1 + h * w, width): class token, patch tokens row-major.
        attention: float32 (h * w, h * w), head-averaged patch-to-patch attention summed over the last blocks but one;
            rows are queries.
        size: (h, w).
    """

    tokens: Tensor
    attention: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class LastBlock:
    """What the last block makes of a trunk.

    Attributes:
        normed: float32 (1, 1 + h * w, width), what its `ln_1` gives: the leaf that gradients are taken for. The residual
            path does not pass through it.
        class_feature, patch_feature: float32 (embed,), unit vectors: of the class token, and of the mean of the patch
            tokens.
        attention: float32 (h * w, h * w), without a gradient.
    """

    normed: Tensor
    class_feature: Tensor
    patch_feature: Tensor
    attention: Tensor


def interpolate_positions(positions: Tensor, height: int, width: int, *, half: bool) -> Tensor:
    """Position embeddings for another grid of patches.

    Args:
        positions: float32 (1 + g * g, d), the class token's first.
        height, width: the grid wanted.
        half: round the result to float16, as the published code does even on a CPU.

    Returns:
        float32 (1 + height * width, d); the patch part is resized bilinearly, half-pixel centres.
    """
    side = round((len(positions) - 1) ** 0.5)
    grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    patches = resized[0].flatten(1).T
    joined = torch.cat([positions[:1], patches])
    return joined.to(torch.float16).to(positions.dtype) if half else joined


@torch.no_grad()
def run_trunk(visual: Any, pixels: Tensor, *, attention_blocks: int, half_positions: bool = True) -> Trunk:
    """All blocks but the last.

    Args:
        visual: the vision transformer of `open_clip`.
        pixels: float32 (1, 3, H, W), normalised; H and W are multiples of the patch.
        attention_blocks: the attention of how many blocks is wanted, counted from the end, the last block among them.
        half_positions: see `interpolate_positions`.

    Raises:
        ValueError: when the transformer has fewer blocks.
    """
    blocks = visual.transformer.resblocks
    if not 1 <= attention_blocks <= len(blocks):
        raise ValueError(f"attention_blocks: expected 1 to {len(blocks)}, got {attention_blocks}")
    patches = visual.conv1(pixels)
    height, width = patches.shape[-2:]
    tokens = torch.cat([visual.class_embedding[None, None], patches.flatten(2).permute(0, 2, 1)], dim=1)
    positions = interpolate_positions(visual.positional_embedding, height, width, half=half_positions)
    tokens = visual.ln_pre(tokens + positions)
    total = tokens.new_zeros((height * width, height * width))
    for index, block in enumerate(blocks[:-1]):
        wanted = index >= len(blocks) - attention_blocks
        tokens, attention = _finish(block, tokens, block.ln_1(tokens), need_attention=wanted)
        if attention is not None:
            total += attention
    return Trunk(tokens, total, (height, width))


def run_last_block(visual: Any, trunk: Trunk) -> LastBlock:
    """The last block and what texts are compared with, with the graph from `normed` to both features."""
    block = visual.transformer.resblocks[-1]
    with torch.enable_grad():
        normed = block.ln_1(trunk.tokens).detach().requires_grad_()
        tokens, attention = _finish(block, trunk.tokens, normed, need_attention=True)
        tokens = visual.ln_post(tokens)[0]
        projected = torch.stack([tokens[0], tokens[1:].mean(dim=0)]) @ visual.proj
        class_feature, patch_feature = F.normalize(projected, dim=-1)
    assert attention is not None  # it was asked for
    return LastBlock(normed, class_feature, patch_feature, attention.detach())


def _finish(
    block: Any, tokens: Tensor, normed: Tensor, *, need_attention: bool
) -> tuple[Tensor, Tensor | None]:
    """A block from behind its first layer norm, and the patch-to-patch part of its head-averaged attention."""
    attended, attention = block.attn(normed, normed, normed, need_weights=need_attention)
    tokens = tokens + attended
    tokens = tokens + block.mlp(block.ln_2(tokens))
    return tokens, None if attention is None else attention[0, 1:, 1:]
