from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.clip.tiny import LAYERS, PATCH, WIDTH, tiny_clip
from weaksam_cli.models.clip.vision import interpolate_positions, run_last_block, run_trunk


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_clip()


def _pixels(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height * PATCH, width * PATCH, generator=torch.Generator().manual_seed(5))


def test_at_the_native_size_the_class_token_gives_the_librarys_own_image_embedding(network: Any) -> None:
    pixels = _pixels(2, 2)
    last = run_last_block(network.visual, run_trunk(network.visual, pixels, attention_blocks=2))
    with torch.no_grad():
        wanted = network.encode_image(pixels, normalize=True)[0]
    assert torch.allclose(last.class_feature, wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 2)])
def test_the_patch_feature_is_the_projected_mean_of_all_patch_tokens(
    network: Any, size: tuple[int, int]
) -> None:
    visual, pixels = network.visual, _pixels(*size)
    trunk = run_trunk(visual, pixels, attention_blocks=1, half_positions=False)
    assert trunk.size == size
    assert trunk.tokens.shape == (1, 1 + size[0] * size[1], WIDTH)
    with torch.no_grad():
        tokens = visual.ln_post(visual.transformer.resblocks[-1](trunk.tokens))[0, 1:]
        wanted = F.normalize(tokens.mean(dim=0) @ visual.proj, dim=0)
    assert torch.allclose(run_last_block(visual, trunk).patch_feature, wanted, atol=1e-5)


def _attention(block: Any, tokens: Tensor) -> Tensor:
    """Head-averaged softmax(q k / sqrt(64)), written out."""
    normed = block.ln_1(tokens)[0]
    joined = normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    query, key, _ = (part.reshape(len(normed), -1, 64).transpose(0, 1) for part in joined.chunk(3, dim=1))
    return ((query @ key.transpose(1, 2)) / 8).softmax(dim=-1).mean(dim=0)


@pytest.mark.parametrize("blocks", range(1, LAYERS + 1))
def test_the_attention_of_the_last_blocks_is_summed_without_the_class_token(
    network: Any, blocks: int
) -> None:
    visual, pixels = network.visual, _pixels(2, 3)
    trunk = run_trunk(visual, pixels, attention_blocks=blocks)
    last = run_last_block(visual, trunk)
    with torch.no_grad():
        everything = run_trunk(visual, pixels, attention_blocks=LAYERS)
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches], dim=1)
        tokens = visual.ln_pre(tokens + interpolate_positions(visual.positional_embedding, 2, 3, half=True))
        maps = []
        for block in visual.transformer.resblocks:
            maps.append(_attention(block, tokens)[1:, 1:])
            tokens = block(tokens)
    assert torch.allclose(last.attention, maps[-1], atol=1e-5)
    wanted = torch.stack(maps[LAYERS - blocks : -1]).sum(dim=0) if blocks > 1 else torch.zeros(6, 6)
    assert torch.allclose(trunk.attention, wanted, atol=1e-5)
    assert torch.allclose(trunk.tokens, everything.tokens, atol=1e-5)
    assert not last.attention.requires_grad


def test_more_blocks_than_there_are_is_an_error(network: Any) -> None:
    for blocks in (0, LAYERS + 1):
        with pytest.raises(ValueError, match=f"expected 1 to {LAYERS}"):
            run_trunk(network.visual, _pixels(1, 1), attention_blocks=blocks)


def test_positions_at_their_own_size_stay_as_they_are() -> None:
    positions = torch.randn(1 + 9, 4)
    assert torch.allclose(interpolate_positions(positions, 3, 3, half=False), positions)
    rounded = interpolate_positions(positions, 3, 3, half=True)
    assert torch.equal(rounded, positions.half().float())


def test_positions_of_another_size_are_resized_bilinearly_row_major() -> None:
    grid = torch.arange(4.0).reshape(4, 1)  # 0 1 / 2 3
    resized = interpolate_positions(torch.cat([torch.tensor([[9.0]]), grid]), 2, 4, half=False)
    assert resized[0].item() == 9
    assert resized[1:, 0].tolist() == [0, 0.25, 0.75, 1, 2, 2.25, 2.75, 3]


def test_half_positions_differ_by_their_rounding_only(network: Any) -> None:
    positions = network.visual.positional_embedding
    half, full = (interpolate_positions(positions, 3, 5, half=flag) for flag in (True, False))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert ((half - full).abs() <= 2**-11 * full.abs() + 1e-7).all()
