"""What stands in a foreign pickle for numpy's arrays and functions while it is read: none of them is numpy's own.

The names that a stream may call are the keys of `CALLS`. What a stand-in makes is checked against what it declares, so that
numpy's own reconstruction, which trusts what it is given, is never reached.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Global = tuple[str, str]
Calls = Mapping[Global, Callable[..., object] | None]
"""Name in a stream -> what is called in its place; None for something that may be named but not called."""

Array = NDArray[np.generic]

_MOST_SIDES: Final = 32
_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,6})", re.ASCII)


class RefusedError(Exception):
    """The stream asks for something that is not read; the text says what."""


def shown(value: object) -> str:
    """A foreign value in a message: numbers and texts themselves, cut short, and of anything else its kind.

    A tree is never written out: 360 bytes can hold one whose text has no end.
    """
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, int) and value.bit_length() > 64:
        return "a long integer"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if value is None or isinstance(value, (bool, int, float, np.bool_, np.number)):
        return str(value)
    return f"a {type(value).__name__.strip('_').lower()}"


class Dtype:
    """Stands in for a numpy dtype while the stream is read."""

    def __init__(self, text: object, *_: object) -> None:
        match = _DTYPE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise RefusedError(f"an array of dtype {shown(text)}")
        self.value = np.dtype(match[0])

    def set_state(self, state: object) -> None:
        """From numpy's state: version, byte order, and what only a dtype with fields has."""
        if not isinstance(state, tuple) or any(item is not None for item in state[2:5]):
            raise RefusedError("an array with fields")
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class Held:
    """Stands in for the value that is read in its place; what else the stream says about it is dropped."""

    def __init__(self, value: object = None, *_: object) -> None:
        self.value = value

    def set_state(self, state: object) -> None:
        """Nothing of it is needed."""


class _Array(Held):
    """Stands in for a numpy array while the stream is read; has a value once its data arrived."""

    def set_state(self, state: object) -> None:
        """From numpy's state: version, shape, dtype, Fortran order, data."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("an array whose state is not numpy's")
        _, shape, dtype, fortran, data = state
        self.value = _as_array(data, dtype, shape, fortran=bool(fortran))


class Inert:
    """Stands in for an object of a class that is known to be harmless and that nobody needs: keeps its attributes."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def set_state(self, state: object) -> None:
        """From the object's dictionary."""
        self.attributes = state if isinstance(state, dict) else {}


class Ordered(dict[Any, Any]):
    """Stands in for an OrderedDict, which is made empty; its own attributes (torch notes versions there) are dropped."""

    def __init__(self) -> None: ...

    def set_state(self, state: object) -> None:
        """Nothing of it is needed."""


def _as_array(data: object, dtype: object, shape: object, *, fortran: bool) -> Array:
    """The array that raw data stand for; they must have exactly the size that shape and dtype declare."""
    if not isinstance(dtype, Dtype):
        raise RefusedError("an array without a dtype")
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 kept bytes in its strings
    if not isinstance(raw, bytes):
        raise RefusedError("an array whose data are not bytes")
    if not isinstance(shape, tuple) or len(shape) > _MOST_SIDES:
        raise RefusedError("an array without a shape")
    if not all(type(side) is int and 0 <= side < 1 << 48 for side in shape):
        raise RefusedError("an array whose shape is not of integers")
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise RefusedError(f"an array of shape {shape} and dtype {dtype.value} in {len(raw)} bytes")
    flat: Array = np.frombuffer(raw, dtype.value) if raw else np.zeros(0, dtype.value)
    return flat.reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: object, dtype: object, shape: object, order: object, axes: object = None) -> _Array:
    if axes is not None:
        raise RefusedError("an array with permuted axes")
    return _Array(_as_array(data, dtype, shape, fortran=order == "F"))


def _scalar(dtype: object, data: object) -> object:
    return _as_array(data, dtype, (1,), fortran=False)[0]


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 calls to write bytes in a protocol of Python 2."""
    if encoding != "latin1":
        raise RefusedError(f"text in the encoding {shown(encoding)}")
    return text.encode("latin1")


@dataclass(frozen=True)
class StandIn:
    """Something of another module that a stream may name, and what is called in its place (None: nothing)."""

    name: str
    call: Callable[..., object] | None


CALLS: Final[Calls] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytes"): lambda: b"",
    ("__builtin__", "bytes"): lambda: b"",
    ("collections", "OrderedDict"): Ordered,
    **{  # the name before numpy 2, and since
        (f"{core}.{module}", name): call
        for core in ("numpy.core", "numpy._core")
        for module, name, call in (
            ("multiarray", "_reconstruct", lambda *_: _Array()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
