"""Bytes of files from anywhere: of ordinary files alone, since a pipe may never end, and never more than asked for."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final

from weaksam_cli.errors import UserError

_BEGINNING: Final = 4096


def beginning(path: Path, count: int = _BEGINNING) -> bytes:
    """The first bytes of a file, which tell what it is; none of what is no file or cannot be read."""
    try:
        if path.is_file():
            with path.open("rb") as handle:
                return handle.read(count)
    except (OSError, ValueError):
        pass
    return b""


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The bytes of a text file of bounded size, without byte order mark.

    Raises:
        UserError: a missing, too large or unreadable file, or one in UTF-16.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError("is no file", where=str(path))
        if size > max_bytes:
            what = f"has {size:,} bytes, and at most {max_bytes:,} are read"
            raise UserError(what, where=str(path), remedy="Divide it into several files")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"the file cannot be read ({error})", where=str(path)) from error
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError("the file is UTF-16", where=str(path), remedy="Save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)
