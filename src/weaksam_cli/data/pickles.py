"""Read a foreign pickle without running anything in it, and write one that old environments read.

A stream may build None, booleans, numbers, strings, bytes, lists, tuples, dictionaries, and numpy arrays and scalars of
numbers and strings. It is read by Python's own unpickler in its pure-Python form, with most instructions taken out; what
a stream may still call are stand-ins (`data.pickled_values`; for tensors `models.checkpoints`). Neither a foreign function
nor numpy's own reconstruction, which trusts what it is given, is ever reached.

What is built is bounded: nesting by `MAX_DEPTH`, size by the size of the file. What a stream holds once and uses often
counts as often, because whoever reads the result goes through it as often.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from weaksam_cli.data.pickled_values import (
    CALLS,
    Calls,
    Dtype,
    Held,
    Inert,
    Ordered,
    RefusedError,
    StandIn,
)
from weaksam_cli.errors import UserError

MAX_BYTES: Final = 8 << 30
"""Larger files are refused: 8 GiB hold 2,000 float32 boxes with scores for each of 200,000 images."""

MAX_DEPTH: Final = 24
"""Deepest nesting of containers: a proposal file needs three levels, the modules of a CLIP a dozen."""

_GROWTH, _SPARE_BYTES = 4, 16 << 20
"""What is built may be this many times as large as the file, and so much more."""

_REMEDY: Final = "Write the file as lists and dictionaries of numpy arrays of numbers"

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
    if not isinstance(called, StandIn) or called.call is None or not isinstance(arguments, tuple):
        raise RefusedError("a call of something that is no function of numpy's")
    made = called.call(*arguments)
    unpickler.count(made)
    unpickler.stack[-1] = made


def _load_new_object(unpickler: Any) -> None:
    called = unpickler.stack[-2]
    if not isinstance(called, StandIn) or called.call is not Inert:
        raise RefusedError("the instruction NEWOBJ")
    _load_reduce(unpickler)


def _load_build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    built = unpickler.stack[-1]
    if not isinstance(built, (Held, Dtype, Inert, Ordered)):
        raise RefusedError("an object with a state of its own")
    built.set_state(state)
    unpickler.count(built)


def _load_set_items(unpickler: Any, items: list[object] | None = None) -> None:
    if items is None:
        items = unpickler.pop_mark()
    target = unpickler.stack[-1]
    # Hashing a tuple that is nested a million deep overflows the C stack, so keys are plain.
    if not isinstance(target, dict) or not all(isinstance(key, (str, int, bytes)) for key in items[::2]):
        raise RefusedError("a dictionary whose keys are not text or numbers")
    target.update(zip(items[::2], items[1::2], strict=True))


def _load_set_item(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    _load_set_items(unpickler, [key, value])


def _load_dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.stack.append({})
    _load_set_items(unpickler, items)


def _load_bytearray(unpickler: Any) -> None:
    (size,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.stack.append(unpickler.read(size))


def _load_stored(unpickler: Any) -> None:
    if unpickler.stored is None:
        raise RefusedError("the instruction BINPERSID")
    unpickler.stack.append(unpickler.stored(unpickler.stack.pop()))


def _refuse(name: str) -> Callable[[Any], None]:
    def handler(unpickler: Any) -> None:
        raise RefusedError(f"the instruction {name}")

    return handler


_OWN: Final[Mapping[str, Callable[[Any], None]]] = {
    "REDUCE": _load_reduce,
    "NEWOBJ": _load_new_object,
    "BUILD": _load_build,
    "SETITEMS": _load_set_items,
    "SETITEM": _load_set_item,
    "DICT": _load_dict,
    "BYTEARRAY8": _load_bytearray,
    "BINPERSID": _load_stored,
}

_PythonUnpickler: Any = pickle._Unpickler


def _dispatch() -> dict[int, Callable[[Any], None]]:
    """What is done for each instruction of a stream."""
    codes = {item.name: ord(item.code) for item in pickletools.opcodes}
    plain = {name: _PythonUnpickler.dispatch[codes[name]] for name in _PLAIN_NAMES.split()}
    return {code: {**plain, **_OWN}.get(name) or _refuse(name) for name, code in codes.items()}


class _Unpickler(_PythonUnpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _dispatch()

    def __init__(self, stream: Any, limit: int, calls: Calls, stored: Callable[[Any], object] | None) -> None:
        super().__init__(stream, encoding="latin1")
        self.stored = stored
        self._left = limit
        self._calls = calls

    def find_class(self, module: str, name: str) -> StandIn:
        """The stand-in for a global; nothing is imported."""
        if module.partition(".")[0] == "__torch__":  # a class whose code stands in a TorchScript archive
            return StandIn(f"{module}.{name}", Inert)
        if (module, name) not in self._calls:
            raise RefusedError(f"{module}.{name}")
        return StandIn(f"{module}.{name}", self._calls[module, name])

    def count(self, made: object) -> None:
        """Add what a stand-in made to what this stream has built so far."""
        self._left -= _weight(made.value if isinstance(made, Held) else made)
        if self._left < 0:
            raise RefusedError("values that are many times as large as the file")


def _weight(value: object) -> int:
    """About the bytes of a value that is no container; an array without elements is as long as it says."""
    if isinstance(value, np.ndarray):
        return max(int(value.nbytes), math.prod(side for side in value.shape if side))
    return 1 + (len(value) if isinstance(value, (str, bytes)) else 0)


class _Finisher:
    """Puts arrays where their stand-ins are, and measures the whole."""

    def __init__(self, limit: int, leaves: tuple[type, ...]) -> None:
        self._limit = limit
        self._leaves = (bool, int, float, str, bytes, np.generic, np.ndarray, *leaves)
        self._done: dict[int, tuple[Any, int, int]] = {}

    def finish(self, value: Any, depth: int = 0) -> tuple[Any, int, int]:
        """`value` without stand-ins (what is used twice stays one object), its weight, and how deep it is nested."""
        if isinstance(value, Held) and isinstance(value.value, self._leaves):
            value = value.value
        if value is None or isinstance(value, self._leaves):
            return value, _weight(value), 0
        inside = value.attributes if isinstance(value, Inert) else value
        if not isinstance(inside, (list, tuple, dict)):
            name = value.name if isinstance(value, StandIn) else "an unfinished array"
            raise RefusedError(f"{name} as a value")
        if id(value) not in self._done:
            self._done[id(value)] = self._container(inside, depth + 1)
        done = self._done[id(value)]
        if depth + done[2] > MAX_DEPTH:
            raise _too_deep()
        return done

    def _container(self, value: Any, depth: int) -> tuple[Any, int, int]:
        if depth > MAX_DEPTH:
            raise _too_deep()
        done = [self.finish(item, depth) for item in (value.values() if isinstance(value, dict) else value)]
        weight = 1 + sum(weight for _, weight, _ in done)
        if weight > self._limit:
            raise RefusedError("values that are used so often that they are many times as large as the file")
        items = [item for item, _, _ in done]
        found = dict(zip(value, items, strict=True)) if isinstance(value, dict) else type(value)(items)
        return found, weight, 1 + max((height for _, _, height in done), default=0)


def _too_deep() -> RefusedError:
    return RefusedError(f"containers nested more than {MAX_DEPTH} deep")


def load_stream(
    stream: Any,
    size: int,
    *,
    where: str,
    remedy: str = _REMEDY,
    calls: Calls | None = None,
    stored: Callable[[Any], object] | None = None,
    leaves: tuple[type, ...] = (),
) -> Any:
    """The value that a pickle in a binary stream stands for; see `read_pickle`.

    Args:
        stream: has `read` and `readline`.
        size: bytes of the pickle.
        where: the file, for messages.
        remedy: what to do when the pickle holds something else.
        calls: further names that the stream may use.
        stored: makes the value of a persistent id; None refuses these.
        leaves: types that `calls` and `stored` make.

    Raises:
        UserError: see `read_pickle`.
    """
    limit = _GROWTH * size + _SPARE_BYTES
    try:
        value = _Unpickler(stream, limit, {**CALLS, **(calls or {})}, stored).load()
        return _Finisher(limit, leaves).finish(value)[0]
    except RefusedError as error:
        raise UserError(
            f"refused: it holds {str(error)[:200]}; only plain values, arrays of numbers and texts, and tensors are read",
            where=where,
            remedy=remedy,
        ) from None
    except Exception as error:  # a damaged stream makes the interpreter raise errors of any type
        raise UserError(
            f"not a readable pickle ({type(error).__name__}: {str(error)[:200]})",
            where=where,
            remedy="The file is damaged, cut short or no pickle: fetch it again",
        ) from error


def read_pickle(path: Path, *, calls: Calls | None = None, remedy: str = _REMEDY) -> Any:
    """The contents of a pickle of plain values and numpy arrays, of Python 2 (texts as latin-1) or 3, any protocol.

    Args:
        path: the file.
        calls: further names that the stream may use -> what is called in their place.
        remedy: what to do when it holds something else.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, numpy arrays (read-only) and numpy scalars.

    Raises:
        UserError: a file that is missing, empty, too large, cut short or no pickle; or one that names anything else,
            which the message names, or that stands for much more than it holds.
    """
    where = str(path)
    if not path.is_file():
        raise UserError("there is no such file", where=where)
    size = path.stat().st_size
    if size == 0:
        raise UserError("the file is empty", where=where, remedy="Fetch it again")
    if size > MAX_BYTES:
        raise UserError(f"has {size} bytes, more than the limit of {MAX_BYTES}", where=where)
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        return load_stream(stream, size, where=where, remedy=remedy, calls=calls)


# ---------------------------------------------------------------- writing
_PROTOCOL: Final = 3
"""The newest that every Python 3 reads and that spells the names of functions as text."""

_NEW, _OLD = "numpy._core.", "numpy.core."
_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):
    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Numpy's functions under the name that they had before numpy 2, which numpy 2 still knows."""
        module = str(getattr(obj, "__module__", ""))
        if not module.startswith(_NEW):
            super().save_global(obj, name)
            return
        self.write(pickle.GLOBAL + f"{_OLD}{module.removeprefix(_NEW)}\n{obj.__name__}\n".encode())
        self.memoize(obj)


def pickle_bytes(content: Any) -> bytes:
    """`content` as a pickle that wetectron and mmdetection 2 read, which live beside Python 3.7 and numpy 1.

    Equal contents give equal bytes, whatever numpy wrote them.

    Args:
        content: lists, dictionaries, numbers, strings and numpy arrays.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, _PROTOCOL).dump(content)
    return buffer.getvalue()
