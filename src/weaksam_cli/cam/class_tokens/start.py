"""What the training of a class-token transformer starts from: the published DeiT-S, or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from weaksam_cli.cam.class_tokens.method import TrainingSettings
from weaksam_cli.core.names import first_few
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.checkpoint import DEIT_HEAD_WIDTH, VitCheckpoint, VitShape
from weaksam_cli.models.vit.network import Attention, ClassTokenVit, Lite0Embedding

_HEAD: Final = "head."
_MAY_BE_RANDOM: Final = (_HEAD, "adaptive_attention_fusion.")
_NAMED: Final = 3
_LIKENESS: Final = 0.7
"""The paper's strength of both noise and identity in the product of query and key weights; see `start_from_random`."""
_REMOVAL: Final = 0.4
"""The paper's strength of both noise and minus identity in the product of value and output weights."""


def start_network(
    settings: TrainingSettings, n_classes: int, initial: Path | None, seed: int
) -> tuple[ClassTokenVit, str]:
    """The network with its first weights, and a line that tells where they come from.

    Args:
        settings: what to train.
        n_classes: C.
        initial: the file of initial weights; None for random ones.
        seed: decides what is random.

    Raises:
        UserError: the file does not fit; the network's width cannot be shared by its heads.
    """
    torch.manual_seed(seed)
    if initial is None:
        network = settings.new_network(random_shape(settings, n_classes))
        start_from_random(network)
        line = "the training starts from random weights (fit.initial is null)"
        if network.shape.embedding == "lite0":
            line += ", behind EfficientNet-Lite0's ImageNet weights, which stay as they are"
        return network, line
    found = VitCheckpoint.read(initial)
    network = settings.new_network(replace(found.shape(settings.heads), n_classes=n_classes))
    line = initialise(network, n_classes, found.tensors, found.where)
    return network, f"the training starts from {initial.name}: {line}"


def random_shape(settings: TrainingSettings, n_classes: int) -> VitShape:
    """The shape that the recipe asks for.

    Raises:
        UserError: the width cannot be shared by the heads; the crop is smaller than a patch; lite0 has other patches.
    """
    chosen, crop = settings.fit.network, settings.fit.crop
    try:
        if crop < chosen.patch:
            raise ValueError(f"a crop of {crop} pixels holds no patch of {chosen.patch}")
        return VitShape(
            n_classes,
            chosen.width,
            chosen.depth,
            settings.heads or max(1, chosen.width // DEIT_HEAD_WIDTH),
            hidden=4 * chosen.width,
            patch=chosen.patch,
            side=crop // chosen.patch,
            embedding=chosen.embedding,
        )
    except ValueError as error:
        raise UserError(
            str(error), where="fit.network", remedy="Change it with --set fit.network.width=N (or patch)"
        ) from error


def initialise(network: nn.Module, n_classes: int, state: Mapping[str, Tensor], where: str) -> str:
    """Start a network from a file, in place.

    The file's one class token and the position of it are repeated for every class; a head of another shape is left out, all
    else has to fit.

    Args:
        network: with the official names; what the file lacks keeps its random weights.
        n_classes: C.
        state: tensors of the file: DeiT with one class token, or a network with C of them.
        where: the file, for messages.

    Returns:
        A line that tells how many tensors came from the file, and which are random or have no use (ImageNet's head).

    Raises:
        UserError: a tensor is of another shape, or the file holds too few: it is of another network.
    """
    own, given = network.state_dict(), _with_tokens(dict(state), n_classes)
    differing = [name for name, value in given.items() if name not in own or own[name].shape != value.shape]
    dropped = [name for name in differing if name.startswith(_HEAD)]
    unfit = [name for name in differing if name not in dropped]
    lacking = [name for name in own if name not in given and not name.startswith(_MAY_BE_RANDOM)]
    if unfit or lacking:
        wrong = "of another shape" if unfit else "missing"
        raise UserError(
            f"these weights do not fit the network: {first_few(unfit or lacking, _NAMED)} {wrong}",
            where=where,
            remedy="Give the published deit_small_patch16_224 (weaksam weights), or --set fit.initial=null",
        )
    taken = {name: given[name].float() for name in own if name in given and name not in dropped}
    network.load_state_dict(taken, strict=False)
    line, random = f"{len(taken)} of {len(own)} tensors taken", [name for name in own if name not in taken]
    if random:
        line += f"; {first_few(random, _NAMED)} random"
    if dropped:
        line += f"; {first_few(dropped, _NAMED)} of the file left out"
    return line


def _with_tokens(state: dict[str, Tensor], n_classes: int) -> dict[str, Tensor]:
    tokens, positions = state.get("cls_token"), state.get("pos_embed")
    if tokens is not None and positions is not None and tokens.shape[1] == 1:
        state["cls_token"] = tokens.repeat(1, n_classes, 1)
        state["pos_embed"] = torch.cat([positions[:, :1].repeat(1, n_classes, 1), positions[:, 1:]], dim=1)
    return state


@torch.no_grad()
def start_from_random(network: ClassTokenVit) -> None:
    """Give attentions their start, all patches the position 0 and a hybrid's convolutions their ImageNet weights, in place.

    A random start from which a transformer learns from few images (arXiv 2305.09828, "Mimetic initialization"): attention
    begins where trained networks end. A token looks at tokens like itself, and takes away what they have in common. With
    DeiT's own start every token sees the mean of all, and patches learn what the whole image shows, not what they show.
    Torch's global random numbers decide.
    """
    network.pos_embed[:, network.shape.n_classes :] = 0
    for module in network.modules():
        if isinstance(module, Attention):
            _start_attention(module)
        if isinstance(module, Lite0Embedding):
            module.load_published()


def _start_attention(attention: Attention) -> None:
    width = attention.proj.out_features
    channels = width // attention.heads
    query, key, value = attention.qkv.weight.view(3, width, width)
    for head in range(attention.heads):
        rows = slice(head * channels, (head + 1) * channels)
        left, right = _factors(_LIKENESS * (_noise(width) + torch.eye(width)), channels)
        query[rows], key[rows] = left.T, right
    left, right = _factors(_REMOVAL * (_noise(width) - torch.eye(width)), width)
    attention.proj.weight.copy_(left)
    value.copy_(right)


def _noise(width: int) -> Tensor:
    """(width, width), rows of unit length in the mean."""
    return torch.randn(width, width) / width**0.5


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(n, rank) and (rank, n), equally large, whose product comes nearest to an (n, n) matrix."""
    left, sizes, right = torch.linalg.svd(product)
    roots = sizes[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]
