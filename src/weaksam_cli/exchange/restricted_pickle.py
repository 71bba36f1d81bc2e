"""Read a foreign pickle without running anything in it.

A stream may build None, booleans, numbers, strings, bytes, lists, tuples, dictionaries, and numpy arrays and scalars of
numbers and strings. It is read by Python's own unpickler in its pure-Python form, with most instructions taken out; what
a stream may still call are stand-ins of this module. Neither a foreign function nor numpy's own reconstruction, which
trusts what it is given, is ever reached.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.errors import UserError

MAX_BYTES: Final = 8 << 30
"""Larger files are refused: 8 GiB hold 2,000 float32 boxes with scores for each of 200,000 images."""

MAX_DEPTH: Final = 16
"""Deepest nesting of containers; proposal files need three levels."""

Global = tuple[str, str]
Array = NDArray[np.generic]

_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,6})", re.ASCII)
_REMEDY: Final = "Write the file as lists and dictionaries of numpy arrays of numbers"


class _RefusedError(Exception):
    """The stream asks for something that is not read; the text says what."""


class _Dtype:
    """Stands in for a numpy dtype while the stream is read."""

    def __init__(self, text: object, *_: object) -> None:
        match = _DTYPE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise _RefusedError(f"an array of dtype {text!r}")
        self.value = np.dtype(match[0])

    def set_state(self, state: object) -> None:
        """From numpy's state: version, byte order, and what only a dtype with fields has."""
        if not isinstance(state, tuple) or any(item is not None for item in state[2:5]):
            raise _RefusedError("an array with fields")
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for a numpy array while the stream is read; has a value once its data arrived."""

    def __init__(self, value: Array | None = None) -> None:
        self.value = value

    def set_state(self, state: object) -> None:
        """From numpy's state: version, shape, dtype, Fortran order, data."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("an array whose state is not numpy's")
        _, shape, dtype, fortran, data = state
        self.value = _as_array(data, dtype, shape, fortran=bool(fortran))


def _as_array(data: object, dtype: object, shape: object, *, fortran: bool) -> Array:
    """The array that raw data stand for; they must have exactly the size that shape and dtype declare."""
    if not isinstance(dtype, _Dtype):
        raise _RefusedError("an array without a dtype")
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 kept bytes in its strings
    if not isinstance(raw, bytes):
        raise _RefusedError("an array whose data are not bytes")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise _RefusedError(f"an array of shape {shape!r}")
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise _RefusedError(f"an array of shape {shape} and dtype {dtype.value} in {len(raw)} bytes")
    flat: Array = np.frombuffer(raw, dtype.value) if raw else np.zeros(0, dtype.value)
    return flat.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: object, dtype: object, shape: object, order: object, axes: object = None) -> _Array:
    if axes is not None:
        raise _RefusedError("an array with permuted axes")
    return _Array(_as_array(data, dtype, shape, fortran=order == "F"))


def _scalar(dtype: object, data: object) -> object:
    return _as_array(data, dtype, (1,), fortran=False)[0]


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 calls to write bytes in a protocol of Python 2."""
    if encoding != "latin1":
        raise _RefusedError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


@dataclass(frozen=True)
class _StandIn:
    """Something of another module that a stream may name, and what is called in its place (None: nothing)."""

    name: str
    call: Callable[..., object] | None


def _stand_ins() -> dict[Global, _StandIn]:
    table: dict[Global, Callable[..., object] | None] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _latin1,
        ("builtins", "bytes"): _no_bytes,
        ("__builtin__", "bytes"): _no_bytes,
    }
    for core in ("numpy.core", "numpy._core"):  # the name before numpy 2, and since
        table[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        table[f"{core}.multiarray", "scalar"] = _scalar
        table[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return {key: _StandIn(".".join(key), call) for key, call in table.items()}


_STAND_INS: Final[Mapping[Global, _StandIn]] = _stand_ins()

_PLAIN_NAMES: Final = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 EMPTY_DICT GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL"
)
"""Instructions that are run as they are: they move plain values about."""


def _load_reduce(unpickler: Any) -> None:
    arguments = unpickler.stack.pop()
    called = unpickler.stack[-1]
    if not isinstance(called, _StandIn) or called.call is None or not isinstance(arguments, tuple):
        raise _RefusedError("a call of something that is no function of numpy's")
    unpickler.stack[-1] = called.call(*arguments)


def _load_build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    built = unpickler.stack[-1]
    if not isinstance(built, (_Array, _Dtype)):
        raise _RefusedError("an object with a state of its own")
    built.set_state(state)


def _load_set_items(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    _set_items(unpickler.stack[-1], items)


def _load_set_item(unpickler: Any) -> None:
    value = unpickler.stack.pop()
    key = unpickler.stack.pop()
    _set_items(unpickler.stack[-1], [key, value])


def _load_dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    built: dict[object, object] = {}
    _set_items(built, items)
    unpickler.stack.append(built)


def _set_items(target: object, items: list[object]) -> None:
    # Hashing a tuple that is nested a million deep overflows the C stack, so keys are plain.
    if not isinstance(target, dict) or not all(isinstance(key, (str, int, bytes)) for key in items[::2]):
        raise _RefusedError("a dictionary whose keys are not text or numbers")
    target.update(zip(items[::2], items[1::2], strict=True))


def _load_bytearray(unpickler: Any) -> None:
    (size,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.stack.append(unpickler.read(size))


def _refuse(name: str) -> Callable[[Any], None]:
    def handler(unpickler: Any) -> None:
        raise _RefusedError(f"the instruction {name}")

    return handler


_OWN: Final[Mapping[str, Callable[[Any], None]]] = {
    "REDUCE": _load_reduce,
    "BUILD": _load_build,
    "SETITEMS": _load_set_items,
    "SETITEM": _load_set_item,
    "DICT": _load_dict,
    "BYTEARRAY8": _load_bytearray,
}

_PythonUnpickler: Any = pickle._Unpickler


def _dispatch() -> dict[int, Callable[[Any], None]]:
    table = {}
    plain = set(_PLAIN_NAMES.split())
    for instruction in pickletools.opcodes:
        code, name = ord(instruction.code), instruction.name
        table[code] = _PythonUnpickler.dispatch[code] if name in plain else _OWN.get(name) or _refuse(name)
    return table


class _Unpickler(_PythonUnpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _dispatch()

    def __init__(self, stream: Any, more: Mapping[Global, Callable[..., object]]) -> None:
        super().__init__(stream, encoding="latin1")
        self._more = {key: _StandIn(".".join(key), call) for key, call in more.items()}

    def find_class(self, module: str, name: str) -> _StandIn:
        """The stand-in for a global; nothing is imported."""
        found = _STAND_INS.get((module, name)) or self._more.get((module, name))
        if found is None:
            raise _RefusedError(f"{module}.{name}")
        return found


class _Finisher:
    """Puts arrays where their stand-ins are."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def finish(self, value: Any, depth: int = 0) -> Any:
        """`value` without stand-ins; what the stream holds once and uses twice stays one object."""
        if value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
            return value
        if isinstance(value, _Array) and value.value is not None:
            return value.value
        if not isinstance(value, (list, tuple, dict)):
            name = value.name if isinstance(value, _StandIn) else "an unfinished array"
            raise _RefusedError(f"{name} as a value")
        if depth == MAX_DEPTH:
            raise _RefusedError(f"containers nested more than {MAX_DEPTH} deep")
        if id(value) not in self._done:
            self._done[id(value)] = self._container(value, depth + 1)
        return self._done[id(value)]

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {key: self.finish(item, depth) for key, item in value.items()}
        return type(value)(self.finish(item, depth) for item in value)


def read_pickle(
    path: Path, *, more: Mapping[Global, Callable[..., object]] | None = None, max_bytes: int = MAX_BYTES
) -> Any:
    """The contents of a pickle of plain values and numpy arrays, of Python 2 (texts as latin-1) or 3, any protocol.

    Args:
        path: the file.
        more: further globals that a stream may call -> what is called in their place.
        max_bytes: refuse larger files.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, numpy arrays (read-only) and numpy scalars.

    Raises:
        UserError: a file that is missing, empty, too large, cut short or no pickle; or one that names anything else,
            which the message names.
    """
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    size = path.stat().st_size
    if size == 0:
        raise UserError("the file is empty", where=str(path), remedy="Fetch it again")
    if size > max_bytes:
        raise UserError(f"has {size} bytes, more than the limit of {max_bytes}", where=str(path))
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        try:
            return _Finisher().finish(_Unpickler(stream, more or {}).load())
        except _RefusedError as error:
            raise UserError(
                f"refused: it holds {str(error)[:200]}, and nothing but plain values and numpy arrays of numbers and "
                "strings is read from a pickle",
                where=str(path),
                remedy=_REMEDY,
            ) from None
        except Exception as error:  # a damaged stream makes the interpreter raise errors of any type
            raise UserError(
                f"not a readable pickle ({type(error).__name__}: {str(error)[:200]})",
                where=str(path),
                remedy="The file is damaged, cut short or no pickle: fetch it again",
            ) from error
