"""SAM's image encoder with attention that never holds a whole score matrix on a CPU, and runs as fused SDPA on a GPU.

The features are those of `segment_anything.modeling.ImageEncoderViT` up to rounding. Global attention over 64 x 64 tokens
has 16.8 million scores a head (0.8 GB of float32 for the 12 heads of ViT-B, written and read several times over); here
they live in blocks that fit the processor's cache. Windows are padded after the projection to queries, keys and values:
what is padded is their bias, so no product is spent on it, nor on the outputs that are cut off again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor

SCORES_AT_ONCE = 1 << 20
"""Attention scores computed at once on a CPU: 4 MiB of float32."""


def encode(encoder: Any, pixels: Tensor) -> Tensor:
    """Features (b, d, s, s) of normalised and padded images (b, 3, S, S), in the dtype of the encoder's weights."""
    x = encoder.patch_embed(pixels.to(encoder.patch_embed.proj.weight.dtype))
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = x + _attention(block.attn, block.norm1(x), block.window_size)
        x = x + block.mlp(block.norm2(x))
    features: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return features


def _attention(layer: Any, x: Tensor, window: int) -> Tensor:
    """Self-attention of tokens (b, H, W, c) within windows of a side; 0 for one window over all."""
    height, width = x.shape[1:3]
    side_y, side_x = (window, window) if window else (height, width)
    projected = _pad_with_bias(layer.qkv(x), layer.qkv.bias, -height % side_y, -width % side_x)
    rows, columns = projected.shape[1] // side_y, projected.shape[2] // side_x
    # (b, rows, side, columns, side, 3 c) to query, key and value of each window and head: (b rows columns, h, n, e).
    windows = projected.unflatten(2, (columns, side_x)).unflatten(1, (rows, side_y)).transpose(2, 3)
    query, key, value = (
        windows.reshape(
            -1, side_y * side_x, 3, layer.num_heads, layer.qkv.out_features // 3 // layer.num_heads
        )
        .permute(2, 0, 3, 1, 4)
        .unbind(0)
    )
    bias = _position_bias(layer, query, side_y, side_x) if layer.use_rel_pos else None
    attend = chunked_attention if x.device.type == "cpu" else fused_attention
    found = attend(query, key, value, bias).transpose(1, 2).flatten(2)
    joined = found.reshape(len(x), rows, columns, side_y, side_x, -1).transpose(2, 3)
    return layer.proj(joined.flatten(3, 4).flatten(1, 2)[:, :height, :width])


def _pad_with_bias(projected: Tensor, bias: Tensor | None, below: int, right: int) -> Tensor:
    """Pad tokens (b, H, W, c) as if zeros had been projected."""
    if not below and not right:
        return projected
    batch, height, width, channels = projected.shape
    padded = projected.new_zeros(batch, height + below, width + right, channels)
    if bias is not None:
        padded += bias
    padded[:, :height, :width] = projected
    return padded


def _position_bias(layer: Any, query: Tensor, side_y: int, side_x: int) -> tuple[Tensor, Tensor]:
    """Decomposed relative positions: what each query (b, h, n, e) adds for a key's row (b, h, n, side_y) and column."""
    grid = query.unflatten(2, (side_y, side_x))
    of_rows = get_rel_pos(side_y, side_y, layer.rel_pos_h)
    of_columns = get_rel_pos(side_x, side_x, layer.rel_pos_w)
    by_row = torch.einsum("bhyxc,ykc->bhyxk", grid, of_rows)
    by_column = torch.einsum("bhyxc,xkc->bhyxk", grid, of_columns)
    return by_row.flatten(2, 3), by_column.flatten(2, 3)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: tuple[Tensor, Tensor] | None) -> Tensor:
    """Attention (b, h, n, e) in one fused kernel, with the position bias as its additive mask."""
    mask = None if bias is None else (bias[0].unsqueeze(-1) + bias[1].unsqueeze(-2)).flatten(-2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def chunked_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attention (b, h, n, e), a block of queries at a time, so that its scores stay in the cache."""
    shape = query.shape
    count = shape[2]
    query = (query * shape[-1] ** -0.5).reshape(-1, *shape[2:])
    keys, values = key.reshape(-1, *shape[2:]).transpose(1, 2), value.reshape(-1, *shape[2:])
    parts = None if bias is None else tuple(part.flatten(0, 1) for part in bias)
    found = torch.empty_like(query)
    rows = max(1, min(count, SCORES_AT_ONCE // count))
    heads = max(1, SCORES_AT_ONCE // (rows * count))
    for head in range(0, len(query), heads):
        some = slice(head, head + heads)
        for row in range(0, count, rows):
            block = (some, slice(row, row + rows))
            if parts is None:
                scores = torch.bmm(query[block], keys[some])
            else:
                positions = (parts[0][block].unsqueeze(-1) + parts[1][block].unsqueeze(-2)).flatten(-2)
                scores = positions.baddbmm_(query[block], keys[some])
            found[block] = torch.bmm(scores.softmax(dim=-1), values[some])
    return found.view(shape)
