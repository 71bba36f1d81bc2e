"""Tiny networks: those of the oracles, and random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
from weaksam_cli.models.vit.mctformer import MCTformer, Version, load_mctformer
from weaksam_cli.models.vit.weaktr import FusionShape, Pool, Variant, WeakTr, load_weaktr

N = TypeVar("N", bound=torch.nn.Module)
TINY = VitShape(n_classes=3, width=8, depth=3, heads=2, hidden=16, patch=4, side=2)


def tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def oracle_weaktr(case: Mapping[str, Any]) -> WeakTr:
    checkpoint = VitCheckpoint("oracle", tensors(case["state_dict"]))
    return load_weaktr(checkpoint, pool=case["config"]["pool"])


def oracle_mctformer(case: Mapping[str, Any], version: Version, class_layers: int) -> MCTformer:
    checkpoint = VitCheckpoint("oracle", tensors(case["state_dict"]))
    heads = case["config"]["num_heads"]
    return load_mctformer(checkpoint, version, class_layers=class_layers, heads=heads)


def random_weaktr(
    variant: Variant | None = "v3", *, pool: Pool = "max", shape: VitShape = TINY, seed: int = 0
) -> WeakTr:
    torch.manual_seed(seed)
    fusion = None if variant is None else FusionShape.published(variant, shape, 2)
    network = WeakTr(shape, fusion, pool=pool)
    return sharpened(network)


def random_mctformer(version: Version, *, shape: VitShape = TINY) -> MCTformer:
    torch.manual_seed(0)
    return sharpened(MCTformer(shape, version))


def sharpened(network: N) -> N:
    """Weights large enough that attentions and gates differ from each other."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
    return network.eval()


def images(*size: int, count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def state_shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def expand_blocks(shapes: Mapping[str, list[int]], depth: int) -> dict[str, list[int]]:
    """The oracle lists the names of the first block alone."""
    whole = {}
    for name, shape in shapes.items():
        copies = range(depth) if name.startswith("blocks.0.") else range(1)
        for index in copies:
            whole[name.replace("blocks.0.", f"blocks.{index}.")] = shape
    return whole
