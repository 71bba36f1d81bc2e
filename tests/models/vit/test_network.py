from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.vit.helpers import TINY, images, random_mctformer, random_weaktr
from weaksam_cli.models.vit.attention import Workspace
from weaksam_cli.models.vit.checkpoint import VitShape, native_side
from weaksam_cli.models.vit.network import Block, positions_for

SIDES = st.integers(min_value=16, max_value=120)


@given(SIDES, SIDES)
def test_positions_for_any_image(height: int, width: int) -> None:
    embedding = torch.randn(1, 3 + 9, 4, generator=torch.Generator().manual_seed(0))
    found = positions_for(embedding, 3, (height, width), 16)
    rows, columns = height // 16, width // 16
    assert found.shape == (1, 3 + rows * columns, 4)
    assert torch.equal(found[:, :3], embedding[:, :3])
    if height == width and rows * columns == 9:
        assert torch.equal(found, embedding)


def test_the_scale_factor_itself_enters_the_sampling() -> None:
    embedding = torch.randn(1, 1 + 9, 4, generator=torch.Generator().manual_seed(0))
    # 48 x 50 has the native 3 x 3 patches and is no square: it is resized by 3.1 / 3 all the same, as published.
    resized = positions_for(embedding, 1, (48, 50), 16)
    assert not torch.allclose(resized, embedding, atol=1e-3)
    grid = embedding[:, 1:].reshape(1, 3, 3, 4).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, scale_factor=(3.1 / 3, 3.1 / 3), mode="bicubic")
    torch.testing.assert_close(resized[:, 1:], expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("patches", [0, 2, 195])
def test_positions_of_no_square_are_refused(patches: int) -> None:
    with pytest.raises(ValueError, match=f"got {patches}"):
        native_side(patches)


def test_heads_share_the_width() -> None:
    with pytest.raises(ValueError, match="8 cannot be shared by 3 heads"):
        VitShape(3, width=8, heads=3)


@given(st.integers(0, 3), st.integers(0, 3))
def test_what_is_beyond_the_last_whole_patch_is_not_seen(bottom: int, right: int) -> None:
    network, pixels = random_mctformer("v1"), images(12 + bottom, 20 + right)
    with torch.inference_mode():
        whole = network.encode(pixels)
        cropped = network.encode(pixels[:, :, :12, :20])
    assert torch.equal(whole.patch_map, cropped.patch_map)


@pytest.mark.parametrize("gradients", [True, False])
def test_recording_attentions_changes_no_token(gradients: bool) -> None:
    network, pixels = random_weaktr(), images(12, 8, count=2)
    with torch.set_grad_enabled(gradients):
        bare, recorded = network.encode(pixels), network.encode_for_maps(pixels, Workspace())
    torch.testing.assert_close(bare.class_tokens, recorded.class_tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bare.patch_map, recorded.patch_map, rtol=1e-4, atol=1e-5)


def test_stochastic_depth_rises_to_its_rate_and_acts_in_training_alone() -> None:
    network, pixels = random_mctformer("v2"), images(8, 8, count=64)
    before = network(pixels)["class_token"]
    network.set_drop_path(0.5)
    assert [block.drop_rate for block in network.blocks] == [0.0, 0.25, 0.5]
    assert torch.equal(network(pixels)["class_token"], before)
    torch.manual_seed(0)
    assert not torch.equal(network.train()(pixels)["class_token"], before)
    network.set_drop_path(0.0)
    torch.testing.assert_close(network(pixels)["class_token"], before)


def test_dropping_keeps_the_mean() -> None:
    block = Block(TINY).train()
    block.drop_rate = 0.25
    torch.manual_seed(0)
    dropped = block._dropped(torch.ones(4000, 1, 1))
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)


def test_one_block_has_no_stochastic_depth() -> None:
    shape = VitShape(n_classes=1, width=8, depth=1, heads=2, hidden=16, patch=4, side=2)
    network = random_mctformer("v1", shape=shape)
    network.set_drop_path(0.3)
    assert [block.drop_rate for block in network.blocks] == [0.0]


def test_a_workspace_gives_the_same_memory_again_and_grows() -> None:
    workspace, cpu = Workspace(), torch.device("cpu")
    first = workspace.take("a", (2, 3), cpu)
    assert workspace.take("a", (3, 2), cpu).data_ptr() == first.data_ptr()
    assert workspace.take("b", (2, 3), cpu).data_ptr() != first.data_ptr()
    assert workspace.take("a", (4, 5), cpu).shape == (4, 5)
