"""What an export wrote, by the digest of each file: so the next export knows its own files from those of others.

A file that somebody changed since, as one who corrects labels, is not known again, and is not replaced unasked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.core.files import read_bytes
from weaksam_cli.errors import UserError

_NAME: Final = ".weaksam-export"
"""Without a suffix: readers of annotation folders take every .json and .xml."""
_MAX_BYTES: Final = 500 * 1000**2
_FILES: Final = TypeAdapter(dict[str, str])


class Manifest:
    """The files of earlier exports to one place.

    Args:
        out: the output of the export.
        is_folder: whether that is a folder.
    """

    def __init__(self, out: Path, *, is_folder: bool) -> None:
        self._root = out if is_folder else out.parent
        self._path = out / _NAME if is_folder else out.with_name(f".{out.name}{_NAME}")
        self._noted = self._read()

    def has(self, path: Path) -> bool:
        """Was a file written by an earlier export, and is as it was then?"""
        return path.is_file() and self._noted.get(self._name(path)) == _mark(path)

    def note(self, paths: Iterable[Path], ops: FileOps) -> None:
        """Add files that were written, and forget those that are gone."""
        known = {name: mark for name, mark in self._noted.items() if (self._root / name).is_file()}
        found = {**known, **{self._name(path): _mark(path) for path in paths}}
        if found != self._noted:
            ops.write_atomically(
                self._path, json.dumps(dict(sorted(found.items())), indent=0).encode() + b"\n"
            )

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _read(self) -> Mapping[str, str]:
        """Nothing where there is none, or one that is damaged: its files are taken for those of others then."""
        try:
            return _FILES.validate_json(read_bytes(self._path, _MAX_BYTES)) if self._path.is_file() else {}
        except (UserError, ValidationError):
            return {}


def _mark(path: Path) -> str:
    """Of a file its digest, of a link where it leads."""
    return f"-> {path.readlink()}" if path.is_symlink() else digest.of_file(path)
