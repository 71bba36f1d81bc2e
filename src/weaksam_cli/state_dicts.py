"""How the tensors of a checkpoint differ from those that a network wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

_NAMED_KEYS: Final = 3


def mismatches(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> list[str]:
    """What `state` lacks, has too much, or has in another shape; empty when it fits."""
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    differing = [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
    return [f"{len(found)} tensors {kind}: {_first_few(found)}" for kind, found in groups if found]


def _first_few(names: list[str]) -> str:
    rest = len(names) - _NAMED_KEYS
    listed = ", ".join(names[:_NAMED_KEYS])
    return f"{listed} and {rest} more" if rest > 0 else listed
