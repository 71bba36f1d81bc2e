from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.clip.tiny import LAYERS, PATCH, WIDTH, tiny_clip
from weaksam_cli.errors import UserError
from weaksam_cli.models.clip import (
    embed_words,
    interpolate_positions,
    run_last_block,
    run_trunk,
    tokenise,
)


def test_the_vocabulary_is_that_of_clip() -> None:
    # Ids of "a photo of a cat": known from CLIP's own notebook; 49406 begins, 49407 ends.
    tokens = tokenise(["a photo of a cat"], context_length=77, vocabulary=49408)
    assert tokens.shape == (1, 77)
    assert tokens[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert not tokens[0, 7:].any()


def test_embeddings_are_normalised_means_of_normalised_embeddings() -> None:
    network, templates = tiny_clip(), ["a clean origami {}.", "{} on the road"]
    words = ["dog", "tvmonitor screen", "ground"]
    embedded = embed_words(network, words, templates)
    assert embedded.shape == (3, 32)
    for row, word in enumerate(words):
        texts = [template.replace("{}", word) for template in templates]
        with torch.no_grad():
            alone = [
                F.normalize(network.encode_text(tokenise([t], context_length=77, vocabulary=49408))[0], dim=0)
                for t in texts
            ]
        mean = (alone[0] + alone[1]) / 2
        assert torch.allclose(embedded[row], mean / mean.norm(), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 65])
def test_any_number_of_words(n: int) -> None:
    network = tiny_clip()
    embedded = embed_words(network, ["cat"] * (n - 1) + ["dog"], ["{}"])
    assert embedded.shape == (n, 32)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(n), atol=1e-6)
    assert torch.allclose(embedded[-1], embed_words(network, ["dog"], ["{}"])[0], atol=1e-6)


def test_a_text_that_the_network_would_cut_is_refused() -> None:
    assert tokenise(["cat " * 75], context_length=77, vocabulary=49408)[0, 76] == 49407
    with pytest.raises(UserError, match="has 78 tokens, the network reads 77"):
        tokenise(["cat " * 76], context_length=77, vocabulary=49408)


def test_a_network_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="the network has 1000 tokens"):
        tokenise(["cat"], context_length=77, vocabulary=1000)


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_clip()


def _pixels(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height * PATCH, width * PATCH, generator=torch.Generator().manual_seed(5))


def test_at_the_native_size_the_class_token_gives_the_librarys_own_image_embedding(network: Any) -> None:
    pixels = _pixels(2, 2)
    last = run_last_block(
        network.visual, run_trunk(network.visual, pixels, attention_blocks=2, half_positions=True)
    )
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
    trunk = run_trunk(visual, pixels, attention_blocks=blocks, half_positions=True)
    last = run_last_block(visual, trunk)
    with torch.no_grad():
        everything = run_trunk(visual, pixels, attention_blocks=LAYERS, half_positions=True)
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
