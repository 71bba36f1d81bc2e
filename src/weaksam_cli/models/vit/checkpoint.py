"""Checkpoints of DeiT with a token a class: the numbers that their tensors tell, and networks filled with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import filled, read_checkpoint

N = TypeVar("N", bound=nn.Module)
EmbeddingName = Literal["linear", "lite0"]
DEIT_HEAD_WIDTH: Final = 64
LITE0_PATCH: Final = 16
"""Side in pixels of a cell of the map that a hybrid's tokens are made of."""
COLOURS: Final = 3
_REMEDY: Final = "Use a checkpoint published for the method, or one that `weaksam cam` trained"


@dataclass(frozen=True)
class VitShape:
    """The numbers that make a network.

    Attributes:
        n_classes: class tokens (C).
        width: of a token.
        depth: number of blocks.
        heads: attention heads of a block.
        hidden: width of the perceptron in a block.
        patch: side of a patch in pixels.
        side: patches along a side of the square that the position embedding is for.
        embedding: what makes tokens of patches: DeiT's linear layer, or the features of EfficientNet-Lite0.
    """

    n_classes: int
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    patch: int = 16
    side: int = 14
    embedding: EmbeddingName = "linear"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be shared by {self.heads} heads")
        if self.embedding == "lite0" and self.patch != LITE0_PATCH:
            raise ValueError(f"embedding lite0 has patches of {LITE0_PATCH} pixels, not {self.patch}")

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], heads: int | None = None) -> VitShape:
        """The shape that a state dict tells.

        Args:
            state: tensors by their official names.
            heads: attention heads, which no tensor tells; None for heads of 64 channels as in all of DeiT.

        Raises:
            KeyError: a tensor that tells a number is missing.
            ValueError: the numbers do not fit each other.
        """
        n_classes, width = state["cls_token"].shape[1:]
        projection = state["patch_embed.proj.weight"]
        linear = projection.shape[1] == COLOURS
        return cls(
            n_classes=n_classes,
            width=width,
            depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
            heads=heads or max(1, width // DEIT_HEAD_WIDTH),
            hidden=state["blocks.0.mlp.fc1.weight"].shape[0],
            patch=projection.shape[-1] if linear else LITE0_PATCH,
            side=native_side(state["pos_embed"].shape[1] - n_classes),
            embedding="linear" if linear else "lite0",
        )


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
        if "pos_embed_cls" in self.tensors:
            raise UserError(
                "this is a checkpoint of MCTformer+, which is not supported",
                where=self.where,
                remedy="Use MCTformer V1 or V2, or WeakTr",
            )
        try:
            return VitShape.of_state(self.tensors, heads)
        except (KeyError, IndexError, ValueError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"not a transformer with class tokens: {reason}", where=self.where, remedy=_REMEDY
            ) from error

    @classmethod
    def read(cls, path: Path) -> VitCheckpoint:
        """The tensors of a file: a state dict, or a dictionary that holds one under `model`.

        The official files hold the epoch and figures of the training besides; a file that this program trained the names
        of its classes, too.

        Raises:
            UserError: see `read_checkpoint`.
        """
        found = read_checkpoint(path, remedy=_REMEDY)
        names = found.beside.get("class_names")
        return cls(found.where, found.tensors, tuple(map(str, names)) if isinstance(names, list) else None)

    def fill(self, network: N, keys: Iterable[str]) -> N:
        """A network with tensors of the file, every one of `keys`; see `filled`."""
        return filled(network, {key: self.tensors[key] for key in keys}, where=self.where, remedy=_REMEDY)


def native_side(patches: int) -> int:
    """Side of the square grid of patches that a network was made for.

    Raises:
        ValueError: when the number of patches is no square.
    """
    side = round(max(patches, 0) ** 0.5)
    if side < 1 or side * side != patches:
        raise ValueError(f"expected positions of a square of patches, got {patches}")
    return side
