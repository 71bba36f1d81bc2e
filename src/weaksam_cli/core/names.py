"""Names that people give: splits, datasets, variants; and lists of names in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeVar

from weaksam_cli.errors import UserError

T = TypeVar("T")
_PLAIN: Final = re.compile(r"[\w.-]+")
_LONGEST: Final = 100
"""Bytes: a file's name has at most 255, and the program adds to it."""
_RESERVED: Final = {"split": {"source"}}
"""Case of letters aside: `labels/source.json` is no split."""
_TAKEN: Final = {"split": ("pooled-",)}
"""Beginnings of names: `cam/pooled-train.h5` lies beside the maps of the splits."""


def plain_word(text: str, what: str, *, where: str) -> str:
    """`text`, if it can be the name of a `what` (split, dataset, variant): files and folders are called by it.

    Plain words have letters, digits and `. _ -`, at most 100 bytes of them; nothing that is a path, an option or hidden.

    Raises:
        UserError: naming the place `where` it stood.
    """
    if (
        not _PLAIN.fullmatch(text)
        or len(text.encode()) > _LONGEST
        or text.startswith((".", "-"))
        or text.endswith((".", ".receipt", ".shards"))
        or text.casefold() in _RESERVED.get(what, ())
        or text.casefold().startswith(_TAKEN.get(what, ()))
    ):
        raise UserError(
            f"{text[:120]!r} cannot be the name of a {what}",
            where=where,
            remedy="Use a plain word of letters, digits and . _ - (no path)",
        )
    return text


def is_text(text: str) -> bool:
    """Can it be written to a file and be a name there? Not NUL, and not bytes that are no text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def leaves_folder(path: str) -> bool:
    """Is a POSIX path that a file names, absolute or by `..`, not below the folder that it is relative to?"""
    return path.startswith("/") or ".." in path.split("/")


def first_twice(values: Iterable[T]) -> T | None:
    """The first value that stands a second time."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Names as a phrase, cut after `limit`."""
    listed = list(names)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"
