"""From DeiT's tensors to a network with a token a class."""

from __future__ import annotations

import pytest
import torch

from weaksam_cli.cam.vit_training.initialise import initialise
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.aaf import FusionShape
from weaksam_cli.models.vit.network import VitShape
from weaksam_cli.models.vit.weaktr import WeakTr

WIDTH, SIDE = 12, 3


def network(n_classes: int, side: int = SIDE) -> WeakTr:
    torch.manual_seed(1)
    shape = VitShape(n_classes, width=WIDTH, depth=2, heads=2, hidden=24, patch=4, side=side)
    return WeakTr(shape, FusionShape.published("v3", shape, 2))


def deit() -> dict[str, torch.Tensor]:
    """A state dict as the published one: one class token, ImageNet's linear head, no fusion."""
    generator = torch.Generator().manual_seed(2)
    state = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in network(1).state_dict().items()
        if not name.startswith(("head.", "adaptive"))
    }
    state["head.weight"], state["head.bias"] = torch.zeros(1000, WIDTH), torch.zeros(1000)
    return state


@pytest.mark.parametrize("n_classes", [1, 2, 7])
def test_the_class_token_and_its_position_are_repeated(n_classes: int) -> None:
    made, state = network(n_classes), deit()
    taken = initialise(made, n_classes, state, "deit.pth")
    for slot in range(n_classes):
        assert torch.equal(made.cls_token[0, slot], state["cls_token"][0, 0])
        assert torch.equal(made.pos_embed[0, slot], state["pos_embed"][0, 0])
    assert torch.equal(made.pos_embed[0, n_classes:], state["pos_embed"][0, 1:])
    assert torch.equal(made.state_dict()["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.weight"])
    assert set(taken.dropped) == {"head.weight", "head.bias"}
    assert {name.partition(".")[0] for name in taken.random} == {"head", "adaptive_attention_fusion"}
    assert len(taken.taken) == len(state) - 2
    assert "head.weight, head.bias of the file left out" in taken.describe()


def test_a_network_of_the_same_classes_is_taken_whole() -> None:
    state = {name: value + 1 for name, value in network(3).state_dict().items()}
    taken = initialise(network(3), 3, state, "weaktr.pth")
    assert (taken.random, taken.dropped) == ((), ())


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
        initialise(network(3), 3, state, "deit.pth")
    assert "deit.pth" in str(error.value)
    assert "fit.initial=null" in str(error.value)
