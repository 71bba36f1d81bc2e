from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.propose.conftest import build_tiny_sam
from torch import Tensor

from weaksam_cli.propose.sam import encoder as sam_encoder
from weaksam_cli.propose.sam.encoder import chunked_attention, encode, fused_attention

SHAPES: list[dict[str, Any]] = [
    {},
    {"window_size": 4, "num_heads": 3},
    {"window_size": 8, "depth": 3, "global_attn_indexes": (0, 2)},
    {"window_size": 5, "global_attn_indexes": ()},
    {"window_size": 0},
    {"use_rel_pos": False},
    {"use_abs_pos": False},
    {"qkv_bias": False, "num_heads": 1},
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("attention", [chunked_attention, fused_attention])
def test_features_are_those_of_the_package(
    shape: dict[str, Any], attention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build_tiny_sam(3, **shape).image_encoder
    pixels = noise(2, 3, 128, 128)
    monkeypatch.setattr(sam_encoder, "chunked_attention", attention)
    with torch.inference_mode():
        expected = encoder(pixels)
        torch.testing.assert_close(
            encode(encoder, pixels), expected, rtol=1e-4, atol=1e-5 * expected.abs().max()
        )


@pytest.mark.parametrize("count", [1, 2, 6, 7])
@pytest.mark.parametrize("budget", [1, 5, 13, 14, 50, 1 << 20])
@pytest.mark.parametrize("biased", [False, True])
def test_blocks_of_any_size_give_the_same(
    count: int, budget: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = (noise(2, 3, count * 2, 5, seed=seed) for seed in range(3))
    bias = (noise(2, 3, count * 2, count, seed=4), noise(2, 3, count * 2, 2, seed=5)) if biased else None
    monkeypatch.setattr(sam_encoder, "SCORES_AT_ONCE", budget)
    found = chunked_attention(query, key, value, bias)
    torch.testing.assert_close(found, fused_attention(query, key, value, bias))


def test_no_block_of_scores_is_larger_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    bmm = torch.bmm

    def watched(left: Tensor, right: Tensor) -> Tensor:
        nonlocal largest
        product = bmm(left, right)
        if product.shape[-1] == 24:
            largest = max(largest, product.numel())
        return product

    monkeypatch.setattr(torch, "bmm", watched)
    monkeypatch.setattr(sam_encoder, "SCORES_AT_ONCE", 100)
    chunked_attention(noise(1, 4, 24, 5), noise(1, 4, 24, 5), noise(1, 4, 24, 5), None)
    assert 0 < largest <= 100
