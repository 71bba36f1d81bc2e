"""EfficientNet-Lite0 as detectron2's backbone equals timm's network."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import nn

from weaksam_cli.detectron.backbones import LiteBackbone, add_backbone_config, load_network

NAMES = ("c2", "c3", "c4", "c5", "head")


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Random weights with normalisation statistics that are not the identity."""
    torch.manual_seed(0)
    network = load_network(request.param, "random").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(cast(torch.Tensor, module.running_mean), std=0.1)
            nn.init.uniform_(cast(torch.Tensor, module.running_var), 0.5, 1.5)
    return network


def timm_maps(network: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = network.bn1(network.conv_stem(x))
    maps: dict[str, torch.Tensor] = {}
    for index, stage in enumerate(network.blocks):
        x = stage(x)
        if index in {1, 2, 4, 6}:
            maps[NAMES[len(maps)]] = x
    maps["head"] = network.bn2(network.conv_head(x))
    return maps


@pytest.mark.parametrize("size", [(64, 96), (65, 33), (97, 50), (31, 31)])
def test_equals_timm(network: nn.Module, size: tuple[int, int]) -> None:
    # In float64 the order of folded multiplications does not matter, so the comparison can be strict.
    double = copy.deepcopy(network).double()
    backbone = LiteBackbone(double, NAMES)
    x = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = backbone(x), timm_maps(double, x)
    assert set(ours) == set(NAMES)
    for name, shape in backbone.output_shape().items():
        assert ours[name].shape[1] == shape.channels
        assert ours[name].shape[2:] == tuple(-(-side // shape.stride) for side in size)
        assert torch.allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9), name


def test_gradients_equal_a_frozen_normalisation(network: nn.Module) -> None:
    backbone = LiteBackbone(network, ("c2",))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone(x)["c2"].square().mean().backward()
    timm_maps(network, x)["c2"].square().mean().backward()
    assert torch.allclose(backbone.stem.weight.grad, network.conv_stem.weight.grad, rtol=1e-3, atol=1e-6)  # type: ignore
    network.zero_grad()


def test_training_mode_changes_nothing(network: nn.Module) -> None:
    backbone = LiteBackbone(network, ("c3",))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = backbone.eval()(x)["c3"]
        assert torch.equal(backbone.train()(x)["c3"], before)
        assert torch.equal(backbone.eval()(x)["c3"], before)


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 8])
def test_freeze_at(network: nn.Module, freeze_at: int) -> None:
    backbone = LiteBackbone(network, NAMES, freeze_at)
    parts = [backbone.stem, *backbone.stages]
    trains = [any(parameter.requires_grad for parameter in part.parameters()) for part in parts]
    assert trains == [index >= freeze_at for index in range(8)]


@pytest.mark.parametrize(
    ("name", "first", "context"), [("lite0", 2, ""), ("lite0", 3, "head"), ("lite2", 4, "head")]
)
def test_registered_with_detectron2(name: str, first: int, context: str) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    add_backbone_config(cfg)
    features = [f"c{level}" for level in range(first, 6)]
    cfg.MODEL.BACKBONE.NAME = f"build_weaksam_{name}_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.BACKBONE.CONTEXT = context
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = features, 16
    backbone = build_backbone(cfg)
    assert backbone.size_divisibility == 32
    maps = backbone(torch.randn(1, 3, 64, 96))
    wanted = {f"p{level}": (16, 64 // 2**level, -(-96 // 2**level)) for level in range(first, 7)}
    wanted |= {context: (1280, 2, 3)} if context else {}
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == wanted
    assert {name: shape.channels for name, shape in backbone.output_shape().items()} == {
        name: shape[0] for name, shape in wanted.items()
    }


@pytest.mark.parametrize(
    ("kind", "maps"),
    [
        ("lite0", {"c3": (40, 8, 12), "c5": (320, 2, 3)}),
        ("resnet", {"res3": (512, 8, 12), "res4": (1024, 4, 6)}),
    ],
)
def test_without_a_pyramid(kind: str, maps: dict[str, tuple[int, ...]]) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = f"build_weaksam_{kind}_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = [*maps]
    backbone = build_backbone(cfg)
    found = backbone(torch.randn(1, 3, 64, 96))
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == maps
    assert {name: shape.channels for name, shape in backbone.output_shape().items()} == {
        name: shape[0] for name, shape in maps.items()
    }
