"""Checkpoints as tables of named tensors, and how these differ from what a network wants."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from weaksam_cli.data.paths import first_few
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_NAMED_KEYS: Final = 3


def read_saved(checkpoint: Path, *, remedy: str, harmless: Sequence[Any] = ()) -> Any:
    """What `torch.save` or safetensors wrote, on the CPU; nothing in the file is executed.

    Args:
        checkpoint: the file; told by its suffix, where it is `.safetensors`.
        remedy: what the user can do about a file that is of no use.
        harmless: types besides tensors that may be made.

    Raises:
        UserError: a missing, damaged or foreign file.
    """
    import torch

    where = str(checkpoint)
    if not checkpoint.is_file():
        raise UserError(
            "no such checkpoint",
            where=where,
            remedy="Run `weaksam doctor` to see where weights are looked for",
        )
    try:
        if checkpoint.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(checkpoint)
        # Mapped weights are in memory once, however many processes work on a CPU; only the zip format can be mapped.
        mapped = zipfile.is_zipfile(checkpoint)
        with torch.serialization.safe_globals(list(harmless)):
            return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError("not a file of weights alone", where=where, remedy=remedy) from error
    except Exception as error:  # foreign bytes raise errors of any type
        raise UserError("cannot be read: truncated or damaged", where=where, remedy=remedy) from error


def as_tensors(found: Any, *, where: str, remedy: str) -> dict[str, Tensor]:
    """`found` as a table of named tensors.

    Raises:
        UserError: it is none.
    """
    from torch import Tensor

    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError("holds no table of named tensors", where=where, remedy=remedy)
    return found


def shapes_of(network: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a network."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def mismatches(
    wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], *, more_allowed: bool = False
) -> list[str]:
    """What `state` lacks, has too much (unless `more_allowed`), or has in another shape; empty when it fits."""
    missing = [key for key in wanted if key not in state]
    unexpected = [] if more_allowed else [key for key in state if key not in wanted]
    differing = [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
    return [
        f"{len(found)} tensors {kind}: {first_few(found, _NAMED_KEYS)}" for kind, found in groups if found
    ]
