"""The tensors of a TorchScript archive, read without running anything that stands in it.

`ViT-B-16.pt` is such an archive: a zip file with a pickle of the module tree, the stored numbers, and code.
`torch.load(weights_only=True)` refuses it, and `torch.jit.load` compiles its code and runs its `__setstate__`. Here the
pickle is read by an unpickler that knows tensors and turns every class that it meets into an inert bag of attributes.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from weaksam_cli.errors import UserError

_STORAGE_DTYPES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MARK: Final = "constants.pkl"
"""Every TorchScript archive has a record of this name, a plain state dict has none; torch.load tells them apart by it."""
_DEEPEST: Final = 64


def is_torchscript(path: Path) -> bool:
    """Is this file a TorchScript archive?"""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith(f"/{_MARK}") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of the module tree by their dotted names, on the CPU, in the dtypes of the file.

    Tensors that are no parameters (a traced network's masks) have names, too.

    Raises:
        UserError: a damaged or foreign file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tree = _Reader(archive).load()
            return dict(_flatten(tree, "", set()))
    except Exception as error:  # foreign bytes raise errors of any type
        raise UserError(
            f"cannot be read as a TorchScript archive ({type(error).__name__}: {error})",
            where=str(path),
            remedy="Is it truncated or damaged? Compare it with what is published: `weaksam weights verify`",
        ) from error


class _Inert:
    """Stands for an object of any class: keeps its attributes and does nothing."""

    attributes: dict[str, Any]

    def __new__(cls, *arguments: object, **named: object) -> _Inert:
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _first(value: object, *_: object) -> object:
    return value


_KNOWN: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
}


class _Reader(pickle.Unpickler):
    """Unpickles a module tree; the only things that it calls are those of this module."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._root = next(name for name in archive.namelist() if name.endswith(f"/{_MARK}"))[: -len(_MARK)]
        self._stored: dict[str, Tensor] = {}
        super().__init__(BytesIO(self._record("data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        """A dtype, the function that makes a tensor or keeps a container, or the inert class."""
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        return _KNOWN.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> Tensor:
        """The stored numbers that a persistent id means, as a flat tensor."""
        kind, dtype, key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"expected a storage, got {kind!r}")
        if key not in self._stored:
            data = bytearray(self._record(f"data/{key}"))
            self._stored[key] = (
                torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self._stored[key]

    def _record(self, name: str) -> bytes:
        info = self._archive.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            # torch stores records as they are; a compressed one could be of any size.
            raise ValueError(f"record {name} is compressed")
        return self._archive.read(info)


def _flatten(node: _Inert, prefix: str, seen: set[int]) -> list[tuple[str, Tensor]]:
    if id(node) in seen or prefix.count(".") > _DEEPEST:
        return []
    seen.add(id(node))
    found = []
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{name}", value))
        elif isinstance(value, _Inert):
            found += _flatten(value, f"{prefix}{name}.", seen)
    return found
