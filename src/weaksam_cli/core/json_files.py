"""JSON files from anywhere: of bounded size, parsed into typed models, refused in words that name the place.

A file of any size is held in memory once, and of its long lists only what a model has fields for.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from weaksam_cli.core.files import beginning, read_bytes
from weaksam_cli.errors import UserError

MAX_BYTES: Final = 256 * 1000**2
"""Of a file that is parsed as a whole, which takes several times its size."""
MAX_LISTS_BYTES: Final = 2 * 1000**3
"""Of a file of long lists (`read_lists`), which takes little more than its size: COCO's largest has 0.5 GB, LVIS's 1.1."""
_NO_NUMBER: Final = re.compile(rb"(?<=[\s:,\[])(NaN|-?Infinity)(?=[\s,\]}])")
Items = Sequence[Any]
"""JSON texts, as what has a buffer: they are copied when they are parsed."""
T = TypeVar("T")


def read_json(path: Path, model: TypeAdapter[T], *, remedy: str, max_bytes: int = MAX_BYTES) -> T:
    """A JSON file as a typed value.

    Args:
        path: the file; UTF-8, with or without byte order mark.
        model: what is expected.
        remedy: what to do when it is something else.
        max_bytes: larger files are refused unread.

    Raises:
        UserError: a missing, too large or unreadable file, no JSON, or other values than expected: the first is named.
    """
    data = read_bytes(path, max_bytes)
    try:
        return model.validate_json(data)
    except ValidationError as error:
        raise refusal(error, path, remedy) from None


def read_lists(path: Path, *names: str, remedy: str) -> dict[str, Items | None]:
    """The entries of long lists of a JSON object, each as JSON text; None for a list that is not there or null.

    Nothing else of the file is kept. `NaN` and `Infinity`, which Python writes and JSON does not know, are read as texts.

    Args:
        path: the file; UTF-8, with or without byte order mark.
        names: of the lists.
        remedy: what to do when it is something else.

    Raises:
        UserError: see `read_bytes`; no JSON, no object, or other values than lists.
    """
    import msgspec

    form = msgspec.defstruct("Lists", [(name, list[msgspec.Raw] | None, None) for name in names])
    found = _decoded(path, form, remedy)
    return {name: getattr(found, name) for name in names}


def holds_list(path: Path) -> bool:
    """Does a JSON file begin as a list, and not as an object? False for what cannot be read."""
    return beginning(path).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def read_list(path: Path, *, remedy: str) -> Items:
    """The entries of a JSON file that is one long list, see `read_lists`.

    Raises:
        UserError: see `read_bytes`; no JSON, no list.
    """
    import msgspec

    items: Items = _decoded(path, list[msgspec.Raw], remedy)
    return items


def _decoded(path: Path, form: Any, remedy: str) -> Any:
    import msgspec

    data, decoder = read_bytes(path, MAX_LISTS_BYTES), msgspec.json.Decoder(form)
    try:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return decoder.decode(_NO_NUMBER.sub(rb'"\1"', data))
    except msgspec.ValidationError as error:
        raise UserError(str(error), where=str(path), remedy=remedy) from None
    except (msgspec.DecodeError, RecursionError) as error:
        what = f"no valid JSON: {error}"
        raise UserError(what, where=str(path), remedy="The file may be cut short: fetch it again") from None


def parse_items(items: Items, model: TypeAdapter[T], name: str, path: Path, *, remedy: str) -> Iterator[T]:
    """The entries of a list that `read_lists` gave.

    Raises:
        UserError: one that is no such value; it is named by the list and its place in it.
    """
    for number, item in enumerate(items):
        try:
            yield model.validate_json(bytes(item))
        except ValidationError as error:
            raise refusal(error, path, remedy, (name, number)) from None


def refusal(
    error: ValidationError, path: Path, remedy: str | None, prefix: Sequence[int | str] = ()
) -> UserError:
    """The first fault of a file in words: `file: annotations[3].image_id: expected a whole number, got 'x'`."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        what = f"no valid JSON: {first['ctx']['error']}"
        return UserError(what, where=str(path), remedy="The file may be cut short: fetch it again")
    places = [*prefix, *first["loc"]]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in places).lstrip(".")
    where = f"{path}: {place}" if place else str(path)
    if first["type"] == "missing":
        return UserError("is missing", where=where, remedy=remedy)
    if first["type"] == "extra_forbidden":
        return UserError("is not known here", where=where, remedy=remedy)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return UserError(f"{message}, got {shown(first['input'])}", where=where, remedy=remedy)


def shown(value: object) -> str:
    """A foreign value in a few words."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "null"
    text = (
        value if isinstance(value, str) else str(value) if isinstance(value, bool | float) else _digits(value)
    )
    return repr(text[:60]) if isinstance(value, str) else text[:60]


def _digits(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a number of thousands of digits"
