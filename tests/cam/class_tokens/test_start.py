"""What a training starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from weaksam_cli.cam.class_tokens.method import TrainingSettings
from weaksam_cli.cam.class_tokens.start import initialise, start_network
from weaksam_cli.core.names import first_few
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.models.lite import load_lite
from weaksam_cli.models.vit.checkpoint import VitShape
from weaksam_cli.models.vit.network import Attention
from weaksam_cli.models.vit.weaktr import FusionShape, WeakTr

SMALL = ("weights=null", "fit.initial=null", "fit.network={width: 24, depth: 2, patch: 8}", "fit.crop=24")


def recipe(name: str, *overrides: str) -> TrainingSettings:
    loaded = load_recipe("cam", name, [*SMALL, *overrides]).recipe
    assert isinstance(loaded, TrainingSettings)
    return loaded


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_from_random_weights_a_token_looks_at_its_like(heads: int) -> None:
    network, line = start_network(recipe("mctformer-v2", f"heads={heads}"), 3, None, seed=0)
    assert "random weights" in line
    assert not network.pos_embed[:, 3:].any()
    assert network.pos_embed[:, :3].any()
    for module in network.modules():
        if isinstance(module, Attention):
            query, key, value = module.qkv.weight.view(3, 24, 24)
            for head in range(heads):
                rows = slice(head * 24 // heads, (head + 1) * 24 // heads)
                assert torch.trace(query[rows].T @ key[rows]) > 0
            assert torch.trace(module.proj.weight @ value) < 0


def test_a_hybrid_starts_from_imagenet_and_says_so() -> None:
    network, line = start_network(recipe("vit-tiny", "fit.network={patch: 16, embedding: lite0}"), 2, None, 0)
    assert "behind EfficientNet-Lite0's ImageNet weights" in line
    published = load_lite("lite0").state_dict()
    stem = {
        name.removeprefix("patch_embed.stem."): value
        for name, value in network.state_dict().items()
        if ".stem." in name
    }
    assert stem
    assert all(torch.equal(value, published[name]) for name, value in stem.items())


def test_the_seed_decides_what_is_random() -> None:
    first, again, other = (start_network(recipe("vit-tiny"), 2, None, seed)[0] for seed in (1, 1, 2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.cls_token, other.cls_token)


def test_a_file_of_initial_weights_tells_the_shape(tmp_path: Path) -> None:
    """The recipe's `fit.network` is of no use then."""
    source, _ = start_network(recipe("mctformer-v2", "heads=2"), 1, None, seed=3)
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("head.")}
    torch.save({"model": state}, tmp_path / "deit.pth")
    other = recipe("weaktr", "heads=2", "fit.network.width=48", "fit.reduction=2")
    network, line = start_network(other, 3, tmp_path / "deit.pth", seed=4)
    assert "starts from deit.pth" in line
    assert "taken" in line
    assert network.shape.width == 24
    assert network.shape.n_classes == 3
    assert torch.equal(network.cls_token[0, 2], state["cls_token"][0, 0])
    assert network.state_dict()["adaptive_attention_fusion.attn_head_ffn.0.weight"].shape == (2, 4)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("heads=5",), "a width of 24 cannot be shared by 5 heads"),
        (("fit.network.patch=32",), "a crop of 24 pixels holds no patch of 32"),
        (("fit.network.embedding=lite0",), "lite0 has patches of 16 pixels, not 8"),
        (("fit.reduction=8",), "a reduction of 8 leaves nothing of 2 gates"),
    ],
)
def test_shapes_that_cannot_be_are_told(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        start_network(recipe("weaktr", "fit.reduction=1", *overrides), 2, None, seed=0)


WIDTH, SIDE = 12, 3


def small_network(n_classes: int, side: int = SIDE) -> WeakTr:
    torch.manual_seed(1)
    shape = VitShape(n_classes, width=WIDTH, depth=2, heads=2, hidden=24, patch=4, side=side)
    return WeakTr(shape, FusionShape.published("v3", shape, 2))


def deit() -> dict[str, torch.Tensor]:
    """A state dict as the published one: one class token, ImageNet's linear head, no fusion."""
    generator = torch.Generator().manual_seed(2)
    state = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in small_network(1).state_dict().items()
        if not name.startswith(("head.", "adaptive"))
    }
    state["head.weight"], state["head.bias"] = torch.zeros(1000, WIDTH), torch.zeros(1000)
    return state


@pytest.mark.parametrize("n_classes", [1, 2, 7])
def test_the_class_token_and_its_position_are_repeated(n_classes: int) -> None:
    made, state = small_network(n_classes), deit()
    line = initialise(made, n_classes, state, "deit.pth")
    for slot in range(n_classes):
        assert torch.equal(made.cls_token[0, slot], state["cls_token"][0, 0])
        assert torch.equal(made.pos_embed[0, slot], state["pos_embed"][0, 0])
    assert torch.equal(made.pos_embed[0, n_classes:], state["pos_embed"][0, 1:])
    assert torch.equal(made.state_dict()["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.weight"])
    random = [name for name in made.state_dict() if name.startswith(("head.", "adaptive_attention_fusion."))]
    assert len(made.state_dict()) - len(random) == len(state) - 2
    assert line == (
        f"{len(state) - 2} of {len(made.state_dict())} tensors taken; {first_few(random, 3)} random; "
        "head.weight, head.bias of the file left out"
    )


def test_a_network_of_the_same_classes_is_taken_whole() -> None:
    state = {name: value + 1 for name, value in small_network(3).state_dict().items()}
    line = initialise(small_network(3), 3, state, "weaktr.pth")
    assert line == f"{len(state)} of {len(state)} tensors taken"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cls_token", torch.zeros(1, 2, WIDTH), "cls_token"),
        ("pos_embed", torch.zeros(1, 5, WIDTH), "pos_embed of another shape"),
        ("blocks.0.mlp.fc1.bias", None, "blocks.0.mlp.fc1.bias missing"),
        ("dist_token", torch.zeros(1, 1, WIDTH), "dist_token of another shape"),
    ],
)
def test_what_does_not_fit_is_told(name: str, value: torch.Tensor | None, said: str) -> None:
    state = deit()
    if value is None:
        del state[name]
    else:
        state[name] = value
    with pytest.raises(UserError, match=said) as error:
        initialise(small_network(3), 3, state, "deit.pth")
    assert "deit.pth" in str(error.value)
    assert "fit.initial=null" in str(error.value)
