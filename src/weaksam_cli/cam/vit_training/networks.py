"""The network that a recipe trains, on its start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from weaksam_cli.cam.vit_recipe import MCTformerRecipe, VitRecipe, WeakTrRecipe
from weaksam_cli.cam.vit_training.initialise import initialise
from weaksam_cli.cam.vit_training.random_start import start_from_random
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.aaf import FusionShape
from weaksam_cli.models.vit.checkpoint import read_checkpoint
from weaksam_cli.models.vit.embedding import STEM_PATCH
from weaksam_cli.models.vit.mctformer import MCTformer
from weaksam_cli.models.vit.network import DEIT_HEAD_WIDTH, VitShape
from weaksam_cli.models.vit.weaktr import WeakTr


def start_network(
    recipe: VitRecipe, n_classes: int, initial: Path | None, seed: int
) -> tuple[WeakTr | MCTformer, str]:
    """The network with its first weights, and a line that tells where they come from.

    Args:
        recipe: what to train.
        n_classes: C.
        initial: the file of initial weights; None for random ones.
        seed: decides what is random.

    Raises:
        UserError: the file does not fit; the network's width cannot be shared by its heads.
    """
    torch.manual_seed(seed)
    if initial is None:
        network = build_network(recipe, random_shape(recipe, n_classes))
        start_from_random(network)
        return network, _describe_random(network)
    found = read_checkpoint(initial)
    shape = replace(found.shape(recipe.heads), n_classes=n_classes)
    network = build_network(recipe, shape)
    taken = initialise(network, n_classes, found.tensors, found.where)
    return network, f"the training starts from {initial.name}: {taken.describe()}"


def _describe_random(network: WeakTr | MCTformer) -> str:
    line = "the training starts from random weights (fit.initial is null)"
    if network.shape.embedding == "lite0":
        line += ", behind EfficientNet-Lite0's ImageNet weights, which stay as they are"
    return line


def random_shape(recipe: VitRecipe, n_classes: int) -> VitShape:
    """The shape that the recipe asks for.

    Raises:
        UserError: the width cannot be shared by the heads; the crop is smaller than a patch; lite0 has other patches.
    """
    chosen, crop = recipe.fit.network, recipe.fit.crop
    heads = recipe.heads or max(1, chosen.width // DEIT_HEAD_WIDTH)
    what = None
    if chosen.width % heads:
        what = f"a width of {chosen.width} cannot be shared by {heads} heads"
    elif crop < chosen.patch:
        what = f"a crop of {crop} pixels holds no patch of {chosen.patch}"
    elif chosen.embedding == "lite0" and chosen.patch != STEM_PATCH:
        what = f"embedding lite0 has patches of {STEM_PATCH} pixels, not {chosen.patch}"
    if what is not None:
        raise UserError(
            what, where="fit.network", remedy="Change it with --set fit.network.width=N (or patch)"
        )
    return VitShape(
        n_classes,
        chosen.width,
        chosen.depth,
        heads,
        hidden=4 * chosen.width,
        patch=chosen.patch,
        side=crop // chosen.patch,
        embedding=chosen.embedding,
    )


def build_network(recipe: VitRecipe, shape: VitShape) -> WeakTr | MCTformer:
    """The network of a method, with random weights.

    Raises:
        UserError: the fusion is reduced to nothing.
        TypeError: for a recipe of another method.
    """
    if isinstance(recipe, WeakTrRecipe):
        fusion = _fusion_shape(recipe, shape) if recipe.fusion == "auto" else None
        return WeakTr(shape, fusion, pool=recipe.pool, attention_type=recipe.attention_type)
    if isinstance(recipe, MCTformerRecipe):
        return MCTformer(
            shape, recipe.version, class_layers=recipe.class_layers, attention_type=recipe.attention_type
        )
    raise TypeError(f"no network for {type(recipe).__name__}")


def _fusion_shape(recipe: WeakTrRecipe, shape: VitShape) -> FusionShape:
    reduction, gates = recipe.fit.reduction, shape.heads * shape.depth
    if reduction > gates:
        raise UserError(
            f"a reduction of {reduction} leaves nothing of {gates} gates",
            where="fit.reduction",
            remedy=f"Give --set fit.reduction={max(1, gates // 2)}, or fusion=none",
        )
    return FusionShape.published(recipe.fit.fusion_variant, shape, reduction)
