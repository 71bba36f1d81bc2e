"""Checkpoints of any program as tables of named tensors, and how these differ from what a network wants.

Read are safetensors, what `torch.save` writes, TorchScript archives (CLIP's `ViT-B-16.pt`) and pickles of numpy arrays
(detectron2's `R-50.pkl`). Nothing in a file is run: the pickle of an archive goes through `data.pickles`, like any
foreign pickle. `torch.load(weights_only=True)` refuses TorchScript archives, lets numpy reconstruct scalars, and writes
foreign trees into its messages: 400 bytes keep it busy for ever.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from weaksam_cli.core.names import first_few
from weaksam_cli.data.pickled_values import Calls, Held, Inert, RefusedError, StandIn, shown
from weaksam_cli.data.pickles import load_stream, read_pickle
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

N = TypeVar("N", bound="nn.Module")
MAX_TENSORS: Final = 10_000
"""More are refused: names are compared with each other, and the networks of this program have 1,500 at most."""

_TABLES: Final = ("model", "state_dict", "blobs")
"""Where a file keeps its tensors that holds other things beside them."""

_OLD_FORMAT: Final = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that files of `torch.save` before version 1.6 begin with."""

_STORAGES: Final = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
"""`torch.<name>Storage` in a pickle -> the type of the numbers in a record."""

_JIT_CALLS: Final = "restore_type_tag build_intlist build_doublelist build_boollist build_tensorlist"

_NAMED_KEYS: Final = 3


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read.

    Attributes:
        where: the file, for messages.
        tensors: by their names, on the CPU, in the dtypes of the file; mapped from an archive, not copied.
        table: the entry of the file that held them, "" where they stand at the top.
        beside: all other entries at the top.
    """

    where: str
    tensors: dict[str, Tensor]
    table: str
    beside: Mapping[str, Any]


def read_checkpoint(path: Path, *, remedy: str) -> Checkpoint:
    """The tensors of a file, told by its suffix where that is `.safetensors` and else by its first bytes.

    Args:
        path: the file.
        remedy: what the user can do about a file that is of no use.

    Raises:
        UserError: a missing, damaged or foreign file, or one without tensors: what was expected, and what is there.
    """
    where = str(path)
    if not path.is_file():
        remedy = "Run `weaksam doctor` to see where weights are looked for"
        raise UserError("no such checkpoint", where=where, remedy=remedy)
    try:
        found = _content(path, remedy)
    except UserError:
        raise
    except Exception as error:  # foreign bytes raise errors of any type
        raise UserError("cannot be read: truncated or damaged", where=where, remedy=remedy) from error
    table = next((name for name in _TABLES if isinstance(_entries(found).get(name), dict)), "")
    tensors = _tensors(found[table] if table else found, where, remedy)
    beside = {
        str(name): value for name, value in found.items() if name != table and (table or name not in tensors)
    }
    return Checkpoint(where, tensors, table, beside)


def _entries(found: Any) -> dict[Any, Any]:
    return found if isinstance(found, dict) else {}


def _content(path: Path, remedy: str) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with path.open("rb") as handle:
        begin = handle.read(64)
    if begin.startswith(b"PK"):
        return _read_archive(path, remedy)
    if path.suffix == ".pkl" or (begin.startswith(b"\x80") and _OLD_FORMAT not in begin):
        return read_pickle(path, remedy=remedy)
    if _OLD_FORMAT not in begin:
        what = f"expected a checkpoint of torch or a pickle of arrays, got {'other bytes' if begin else 'an empty file'}"
        raise UserError(what, where=str(path), remedy=remedy)
    return _read_old(path, remedy)


def _tensors(table: Any, where: str, remedy: str) -> dict[str, Tensor]:
    import torch

    found = {
        name: torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        if isinstance(value, np.ndarray)
        else value
        for name, value in _entries(table).items()
        if isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")
    }
    wrong = [name for name in found if not isinstance(name, str)]
    if found and not wrong and len(found) <= MAX_TENSORS:
        return found
    if not isinstance(table, dict):
        got = shown(table)
    elif wrong:
        got = f"one whose tensors are called {first_few(map(shown, wrong), _NAMED_KEYS)}"
    elif found:
        got = f"one of {len(found)}, more than any network has"
    else:
        got = "a dictionary without tensors" if table else "an empty dictionary"
    raise UserError(f"expected a table of named tensors, got {got}", where=where, remedy=remedy)


# ---------------------------------------------------------------- archives
def _read_archive(path: Path, remedy: str) -> Any:
    """What the pickle of an archive of torch stands for; of TorchScript, the tensors of its tree of modules.

    The numbers are mapped: in memory once, however many processes work on a CPU.
    """
    import torch

    where, whole = str(path), np.memmap(path, np.uint8, "c")
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        root = next((name[:-8] for name in records if re.fullmatch(r"[^/]+/data\.pkl", name)), None)
        if root is None:
            raise UserError("expected an archive of torch, got another zip file", where=where, remedy=remedy)
        data = [info for name, info in records.items() if name.startswith(f"{root}data")]
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size > len(whole) for info in data):
            # torch stores these as they are; a compressed one could be of any size.
            raise UserError("cannot be read: its records are compressed", where=where, remedy=remedy)
        tree = archive.read(f"{root}data.pkl")

    def storage(pid: Any) -> Tensor:
        dtype, name, count = _numbers(pid, len(whole))
        info = records.get(f"{root}data/{name}")
        if info is None or count * dtype.itemsize > info.file_size:
            raise RefusedError("tensors whose numbers are not in the archive")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        # A record begins behind its local header, whose length stands in it.
        begin = info.header_offset + 30
        start = begin + sum(struct.unpack("<HH", whole[begin - 4 : begin].tobytes()))
        numbers = whole[start : start + info.file_size]
        return torch.frombuffer(
            numbers.copy() if start % dtype.itemsize else numbers, dtype=dtype, count=count
        )

    load = partial(load_stream, BytesIO(tree), len(tree), where=where, remedy=remedy)
    found = load(calls=_torch_calls(), stored=storage, leaves=(torch.Tensor,))
    # Every TorchScript archive has a record of this name, a file of `torch.save` has none.
    return dict(_flat(found, "", set())) if f"{root}constants.pkl" in records else found


def _numbers(pid: Any, room: int) -> tuple[Any, str, int]:
    """Type, name and count of the numbers that a persistent id means, which are to fit into `room` bytes."""
    import torch

    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[1], StandIn):
        raise RefusedError("an object that is stored elsewhere")
    dtype = getattr(torch, _STORAGES.get(pid[1].name[6:-7], ""), None)  # torch.FloatStorage
    name, count = pid[2], pid[4]
    if dtype is None or type(count) is not int or not isinstance(name, str):
        raise RefusedError("numbers of an unknown type")
    if not 0 <= count * dtype.itemsize <= room:
        raise RefusedError(f"{count} numbers in {room} bytes")
    return dtype, name, count


def _read_old(path: Path, remedy: str) -> Any:
    """What `torch.save` wrote before version 1.6: five pickles, the fourth of them the contents, then the numbers."""
    import torch

    whole, stored = path.stat().st_size, dict[str, torch.Tensor]()

    def storage(pid: Any) -> Tensor:
        dtype, name, count = _numbers(pid, whole)
        if name not in stored:
            if sum(item.nbytes for item in stored.values()) + count * dtype.itemsize > whole:
                raise RefusedError(f"more numbers than {whole} bytes hold")
            stored[name] = torch.empty(count, dtype=dtype)
        view = pid[5] if len(pid) == 6 else None
        return stored[name] if view is None else stored[name][view[1] : view[1] + view[2]]

    with path.open("rb") as stream:
        load = partial(load_stream, stream, whole, where=str(path), remedy=remedy)
        for _ in range(3):  # a number, the version, how long C's types were
            load()
        found = load(calls=_torch_calls(), stored=storage, leaves=(torch.Tensor,))
        for key in load():
            count = int.from_bytes(stream.read(8), "little")
            if count != stored[key].numel():
                raise ValueError(f"{count} numbers")
            if count:
                data = bytearray(stream.read(stored[key].nbytes))
                stored[key].copy_(torch.frombuffer(data, dtype=stored[key].dtype, count=count))
    return found


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    import torch

    if not isinstance(storage, torch.Tensor) or not isinstance(size, tuple):
        raise RefusedError("a tensor without numbers")
    if not all(type(side) is int for side in size) or prod(size) > storage.numel():
        raise RefusedError(f"a tensor that is larger than its {storage.numel()} numbers")
    return torch.as_strided(storage, size, stride, offset)


def _first(value: object, *_: object) -> object:
    return value


def _torch_calls() -> Calls:
    return {
        ("torch._utils", "_rebuild_tensor"): _rebuild,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): _first,
        ("torch.nn.parameter", "Parameter"): Held,
        ("torch", "Size"): _first,
        ("torch", "device"): Inert,
        ("argparse", "Namespace"): Inert,
        **{("torch", f"{name}Storage"): None for name in _STORAGES},
        **{("torch.jit._pickle", name): _first for name in _JIT_CALLS.split()},
    }


def _flat(node: dict[str, Any], prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree of modules by their dotted names; those that are no parameters have names, too."""
    import torch

    if id(node) in seen:
        return
    seen.add(id(node))
    for name, value in node.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.", seen)


# ---------------------------------------------------------------- what a network wants
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


def filled(
    network: N, tensors: Mapping[str, Tensor], *, where: str, remedy: str, more_allowed: bool = False
) -> N:
    """A network, made without memory of its own, with its tensors from a file: frozen, in evaluation mode, float32.

    Args:
        network: changed in place.
        tensors: by the network's names.
        where: the file, for messages.
        remedy: what the user can do about a file that does not fit.
        more_allowed: see `mismatches`.

    Raises:
        UserError: when the tensors do not fit: how many, and the first few.
    """
    complaints = mismatches(shapes_of(network), tensors, more_allowed=more_allowed)
    if complaints:
        raise UserError("; ".join(complaints), where=where, remedy=remedy)
    network.load_state_dict({key: tensors[key].float() for key in network.state_dict()}, assign=True)
    return network.requires_grad_(False).eval()
