"""What a training starts from: the published DeiT-S, or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from weaksam_cli.core.names import first_few
from weaksam_cli.errors import UserError

_CLASS_TOKEN, _POSITIONS, _HEAD = "cls_token", "pos_embed", "head."
_NAMED: Final = 3


@dataclass(frozen=True)
class Taken:
    """What became of the tensors of a file, and of those of the network.

    Attributes:
        taken: names that came from the file.
        dropped: names in the file that the network has no use for: ImageNet's head.
        random: names of the network that start from random weights.
    """

    taken: tuple[str, ...]
    dropped: tuple[str, ...]
    random: tuple[str, ...]

    def describe(self) -> str:
        """One line."""
        total = len(self.taken) + len(self.random)
        parts = [f"{len(self.taken)} of {total} tensors taken"]
        if self.random:
            parts.append(f"{first_few(self.random, _NAMED)} random")
        if self.dropped:
            parts.append(f"{first_few(self.dropped, _NAMED)} of the file left out")
        return "; ".join(parts)


def initialise(network: nn.Module, n_classes: int, state: Mapping[str, Tensor], where: str) -> Taken:
    """Start a network from a file, in place.

    The file's one class token and the position of it are repeated for every class; a head of another shape is left out, all
    else has to fit.

    Args:
        network: with the official names; what the file lacks keeps its random weights.
        n_classes: C.
        state: tensors of the file: DeiT with one class token, or a network with C of them.
        where: the file, for messages.

    Raises:
        UserError: a tensor is of another shape, or the file holds too few: it is of another network.
    """
    own = network.state_dict()
    given = _with_tokens(dict(state), n_classes)
    dropped = [
        name for name in given if name.startswith(_HEAD) and not _same_shape(own.get(name), given[name])
    ]
    unfit = [name for name in given if name not in dropped and not _same_shape(own.get(name), given[name])]
    lacking = [name for name in own if name not in given and not _may_be_random(name)]
    if unfit or lacking:
        wrong = (
            f"{first_few(unfit, _NAMED)} of another shape"
            if unfit
            else f"{first_few(lacking, _NAMED)} missing"
        )
        raise UserError(
            f"these weights do not fit the network: {wrong}",
            where=where,
            remedy="Give the published deit_small_patch16_224 (weaksam weights), or --set fit.initial=null",
        )
    taken = {name: given[name].float() for name in own if name in given and name not in dropped}
    with torch.no_grad():
        network.load_state_dict(taken, strict=False)
    return Taken(tuple(taken), tuple(dropped), tuple(name for name in own if name not in taken))


def _with_tokens(state: dict[str, Tensor], n_classes: int) -> dict[str, Tensor]:
    tokens = state.get(_CLASS_TOKEN)
    positions = state.get(_POSITIONS)
    if tokens is not None and positions is not None and tokens.shape[1] == 1:
        state[_CLASS_TOKEN] = tokens.repeat(1, n_classes, 1)
        state[_POSITIONS] = torch.cat([positions[:, :1].repeat(1, n_classes, 1), positions[:, 1:]], dim=1)
    return state


def _same_shape(own: Tensor | None, given: Tensor) -> bool:
    return own is not None and own.shape == given.shape


def _may_be_random(name: str) -> bool:
    return name.startswith((_HEAD, "adaptive_attention_fusion."))
