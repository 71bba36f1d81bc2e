"""Official files of WeakTr and MCTformer, and our own; what does not fit a network is told key by key.

The official files are dictionaries with the state dict under `model` beside the epoch and figures of the training. A file
that this program trained holds the names of its classes, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models import checkpoints
from weaksam_cli.models.checkpoints import mismatches, shapes_of
from weaksam_cli.models.vit.network import VitShape

CLASS_NAMES: Final = "class_names"
"""Entry of our own files: the classes, in the order of the class tokens."""

_REMEDY: Final = "Use a checkpoint published for the method, or one that `weaksam cam` trained"
_PLUS_KEY: Final = "pos_embed_cls"
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class VitCheckpoint:
    """A file that was read.

    Attributes:
        where: the file, for messages.
        tensors: by their names, on the CPU.
        class_names: classes in the order of the class tokens; None where the file does not say.
    """

    where: str
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None = None

    def shape(self, heads: int | None = None) -> VitShape:
        """The shape of the trunk; see `VitShape.of_state`.

        Raises:
            UserError: for another network, and MCTformer+, whose class and patch positions are apart.
        """
        if _PLUS_KEY in self.tensors:
            raise UserError(
                "this is a checkpoint of MCTformer+, which is not supported",
                where=self.where,
                remedy="Use MCTformer V1 or V2, or WeakTr",
            )
        try:
            return VitShape.of_state(self.tensors, heads)
        except (KeyError, ValueError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"not a transformer with class tokens: {reason}", where=self.where, remedy=_REMEDY
            ) from error

    def fill(self, network: N, keys: Iterable[str]) -> N:
        """A network with tensors of the file, every one of them, frozen, in evaluation mode, float32.

        Raises:
            UserError: when the tensors do not fit: how many, and the first few.
        """
        tensors = {key: self.tensors[key] for key in keys}
        complaints = mismatches(shapes_of(network), tensors)
        if complaints:
            raise UserError("; ".join(complaints), where=self.where, remedy=_REMEDY)
        network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
        network.requires_grad_(False)
        return network.eval()


def read_checkpoint(path: Path) -> VitCheckpoint:
    """The tensors of a file: a state dict, or a dictionary that holds one under `model`.

    Raises:
        UserError: see `checkpoints.read_checkpoint`.
    """
    found = checkpoints.read_checkpoint(path, remedy=_REMEDY)
    names = found.beside.get(CLASS_NAMES)
    return VitCheckpoint(
        found.where, found.tensors, tuple(map(str, names)) if isinstance(names, list) else None
    )
