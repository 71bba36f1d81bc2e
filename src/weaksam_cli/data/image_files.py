"""Finding the files that annotations name: tools write paths of other machines, other slashes, and other spellings.

Only files below one folder are looked at, whatever path was written. That folder is chosen by where the names are found, so
that equal names in the folders of two splits never cross over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import dataset_folder
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.errors import UserError

_PROBES: Final = 50
_UPLOAD: Final = re.compile(r"[0-9a-f]{8}-")


class ImageFiles:
    """The files of the images of one split.

    Attributes:
        root: the folder below which they lie.
        respelled: names that were found under another spelling, in the order in which they were asked for.

    Args:
        names: of all its images, as written.
        places: folders in which they may lie, the likeliest first.
        where: the file that names them, for messages.

    Raises:
        UserError: none of the names is found anywhere.
    """

    def __init__(self, names: Sequence[str], places: Sequence[Path], where: Path) -> None:
        probes = names[:: max(1, len(names) // _PROBES)]
        folders = [
            _Folder(place, _may_search(place, where)) for place in dict.fromkeys(places) if place.is_dir()
        ]
        found = {folder: sum(map(folder.has, probes)) for folder in folders}
        if not any(found.values()):
            found = {folder: sum(map(bool, map(folder.nearest, probes))) for folder in folders}
        best = max(folders, key=found.__getitem__, default=None)
        if best is None or not found[best]:
            looked = first_few(dict.fromkeys(map(str, places)), 8)
            raise UserError(
                f"the images are not found; looked for {names[0] if names else 'them'} in {looked}",
                where=str(where),
                remedy="Say in which folder they lie with --images FOLDER",
            )
        self._folder, self.root = best, best.root
        self.respelled: list[str] = []

    def find(self, name: str) -> str | None:
        """The path of a file below `root`; None where there is none, or several are as likely."""
        if self._folder.has(name):
            return _relative(name)
        near = self._folder.nearest(name)
        if len(near) != 1:
            return None
        if name not in (near[0], PurePosixPath(near[0]).with_suffix("").as_posix()):
            self.respelled.append(name)
        return near[0]

    def likely(self, name: str) -> list[str]:
        """The paths below `root` that a name may mean: several where nothing tells which."""
        exact = _relative(name) if self._folder.has(name) else None
        return self._folder.nearest(name) if exact is None else [exact]


class _Folder:
    """A folder in which images are looked for; it is listed when a name is not there as written, if that is allowed."""

    def __init__(self, root: Path, may_search: bool) -> None:
        self.root, self._may_search = root, may_search

    def has(self, name: str) -> bool:
        """Is there a file of exactly this name?"""
        relative = _relative(name)
        try:
            return relative is not None and (self.root / relative).is_file()
        except (OSError, ValueError):  # a name too long for a file, or with a zero byte
            return False

    def nearest(self, name: str) -> list[str]:
        """The files of the same base name, in whatever case, whose folders fit best.

        A name without suffix means the file of that stem. Label Studio puts eight digits before the names of uploads.
        """
        wanted = _parts(name.casefold())
        if not wanted or not self._may_search:
            return []
        last = wanted[-1] if wanted[-1].endswith(SUFFIXES) else f"{wanted[-1]}."
        candidates = self._by_base.get(last) or self._by_base.get(_UPLOAD.sub("", last), [])
        fits = [_common_end(_parts(path.casefold())[:-1], wanted[:-1]) for path in candidates]
        best = max(fits, default=0)
        return [path for path, fit in zip(candidates, fits, strict=True) if fit == best]

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder, folders, files in os.walk(self.root, followlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in files:
                if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                    path = (Path(folder) / file).relative_to(self.root).as_posix()
                    found.setdefault(file.casefold(), []).append(path)
                    found.setdefault(f"{PurePosixPath(file.casefold()).stem}.", []).append(path)
        return found


def _may_search(place: Path, where: Path) -> bool:
    """Whether a folder belongs to the dataset, so that files of equal names in it are the dataset's.

    What lies above the folder of the annotations may hold other datasets, or a whole disk.
    """
    folder = dataset_folder(where if where.is_dir() else where.parent)
    return place == folder or not folder.is_relative_to(place)


def _relative(name: str) -> str | None:
    """A name as a path below a folder; None where it leaves that folder."""
    path = PurePosixPath(name)
    leaves = path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts
    return None if leaves or not path.parts else path.as_posix()


def _parts(name: str) -> tuple[str, ...]:
    """The names in a path of any system, without what leads out of a folder."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of the last names of two paths are the same."""
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return count
