"""From images to patch tokens: DeiT's linear layer, and the hybrid behind EfficientNet-Lite0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from weaksam_cli.cam.class_tokens.start import start_from_random
from weaksam_cli.errors import UserError
from weaksam_cli.models.lite import load_lite
from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
from weaksam_cli.models.vit.mctformer import MCTformer, load_mctformer

HYBRID = VitShape(2, width=8, depth=1, heads=2, hidden=16, patch=16, side=2, embedding="lite0")


@pytest.fixture(scope="module")
def network() -> MCTformer:
    torch.manual_seed(0)
    made = MCTformer(HYBRID, "v2")
    start_from_random(made)
    return made


def samples(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (47, 33)])
def test_a_token_is_a_linear_function_of_a_cell_of_lite0(network: MCTformer, height: int, width: int) -> None:
    """Of the image without what is beyond its last whole patch."""
    seen = samples(height, width)
    rows, columns = height // 16, width // 16
    with torch.no_grad():
        cells = load_lite("lite0").pyramid(seen[:, :, : 16 * rows, : 16 * columns])["stride16"]
        found = network.patch_embed(seen)
    projection = network.patch_embed.proj
    assert isinstance(projection, torch.nn.Conv2d)
    expected = torch.einsum("bchw,dc->bdhw", cells, projection.weight[:, :, 0, 0])
    assert projection.bias is not None
    assert found.shape == (1, 8, rows, columns)
    torch.testing.assert_close(found, expected + projection.bias[:, None, None], rtol=1e-4, atol=1e-4)


def test_all_but_the_pretrained_convolutions_learn(network: MCTformer) -> None:
    network.train()
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith("patch_embed.stem.")}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    logits = network(samples(32, 32, 2))
    (logits["class_token"].sum() + logits["patch"].sum()).backward()
    optimizer.step()
    after = network.state_dict()
    assert {name for name, value in before.items() if torch.equal(after[name], value)} >= {
        name for name in before if name.startswith("patch_embed.stem.")
    }
    assert not torch.equal(after["patch_embed.proj.weight"], before["patch_embed.proj.weight"])
    network.load_state_dict(before)
    network.eval()


def test_the_state_dict_tells_the_embedding(network: MCTformer, tmp_path: Path) -> None:
    torch.save({"model": network.state_dict()}, tmp_path / "model.pth")
    checkpoint = VitCheckpoint.read(tmp_path / "model.pth")
    assert checkpoint.shape(heads=2) == HYBRID
    loaded = load_mctformer(checkpoint, "v2", heads=2)
    seen = samples(32, 48)
    network.eval()
    with torch.inference_mode():
        assert torch.equal(loaded(seen)["class_token"], network(seen)["class_token"])


def test_a_file_without_the_convolutions_is_refused(network: MCTformer, tmp_path: Path) -> None:
    state = {name: value for name, value in network.state_dict().items() if ".stem." not in name}
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"patch_embed\.stem"):
        load_mctformer(VitCheckpoint.read(tmp_path / "model.pth"), "v2", heads=2)


def test_other_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="patches of 16 pixels, not 8"):
        replace(HYBRID, patch=8)
