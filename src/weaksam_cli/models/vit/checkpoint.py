"""Official files of WeakTr and MCTformer, and our own, to networks; what does not fit is told key by key.

The official files are dictionaries with the state dict under `model` beside the epoch and figures of the training. A file
that this program trained holds the names of its classes, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

import torch
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models import checkpoints
from weaksam_cli.models.checkpoints import mismatches, shapes_of
from weaksam_cli.models.vit.aaf import PREFIX, FusionShape, Pool
from weaksam_cli.models.vit.clues import AttentionType
from weaksam_cli.models.vit.mctformer import MCTformer, Version
from weaksam_cli.models.vit.network import VitShape
from weaksam_cli.models.vit.weaktr import WeakTr

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

    @property
    def n_classes(self) -> int:
        """Number of class tokens.

        Raises:
            UserError: for another network.
        """
        return self.shape().n_classes

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


def build_weaktr(
    checkpoint: VitCheckpoint,
    *,
    fusion: Literal["auto", "none"] = "auto",
    pool: Pool = "max",
    attention_type: AttentionType = "fused",
    heads: int | None = None,
) -> WeakTr:
    """WeakTr with the tensors of a checkpoint, every one of them, frozen, in evaluation mode, float32.

    Args:
        checkpoint: the file.
        fusion: `auto` takes the variant of adaptive attention fusion that the file holds; `none` averages all attentions
            and leaves out the fusion of the file: the maps of the published engine with weights of the other variant.
        pool: see `WeakTr`.
        attention_type: see `WeakTr`.
        heads: attention heads of a block; None takes what the fusion tells, else heads of 64 channels.

    Raises:
        UserError: when the tensors do not fit: how many, and the first few.
    """
    found = FusionShape.of_state(checkpoint.tensors)
    if found is not None and heads is None:
        heads = found.channels // checkpoint.shape().depth
    wanted = found if fusion == "auto" else None
    keys = (
        checkpoint.tensors if wanted is found else [k for k in checkpoint.tensors if not k.startswith(PREFIX)]
    )
    shape = checkpoint.shape(heads)
    if found is not None and found.channels != shape.heads * shape.depth:
        raise UserError(
            f"the attention fusion is for {found.channels} attentions, {shape.heads} heads in {shape.depth} layers make "
            f"{shape.heads * shape.depth}",
            where=checkpoint.where,
            remedy="Leave `heads` at null",
        )
    with torch.device("meta"):
        network = WeakTr(shape, wanted, pool=pool, attention_type=attention_type)
    return _filled(network, checkpoint, keys)


def build_mctformer(
    checkpoint: VitCheckpoint,
    version: Version,
    *,
    class_layers: int = 3,
    attention_type: AttentionType = "fused",
    heads: int | None = None,
) -> MCTformer:
    """MCTformer with the tensors of a checkpoint; see `build_weaktr`.

    Raises:
        UserError: when the tensors do not fit, or are of the other version.
    """
    shape = checkpoint.shape(heads)
    with torch.device("meta"):
        network = MCTformer(shape, version, class_layers=class_layers, attention_type=attention_type)
    return _filled(network, checkpoint, checkpoint.tensors)


def _filled(network: N, checkpoint: VitCheckpoint, keys: Iterable[str]) -> N:
    tensors = {key: checkpoint.tensors[key] for key in keys}
    complaints = mismatches(shapes_of(network), tensors)
    if complaints:
        raise UserError("; ".join(complaints), where=checkpoint.where, remedy=_REMEDY)
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    network.requires_grad_(False)
    return network.eval()
