"""Finding the files that annotations name: tools write paths of other machines, other slashes, and other spellings.

Only files below one folder are looked at, whatever path was written. That folder is chosen by where the names are found, so
that equal names in the folders of two splits never cross over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import dataset_folder, split_word
from weaksam_cli.data.images import find_images, is_image_name
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
        split: theirs; what lies in the folder of another one is not taken by its last name alone.

    Raises:
        UserError: none of the names is found anywhere.
    """

    def __init__(self, names: Sequence[str], places: Sequence[Path], where: Path, split: str = "") -> None:
        probes = names[:: max(1, len(names) // _PROBES)]
        folders = [
            _Folder(place, _may_search(place, where), split_word(split))
            for place in dict.fromkeys(places)
            if place.is_dir()
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
        if name not in (near[0], without_suffix(near[0])):
            self.respelled.append(name)
        return near[0]

    @property
    def paths(self) -> list[str]:
        """All images below `root`, sorted."""
        return self._folder.paths

    def likely(self, name: str) -> list[str]:
        """The paths below `root` that a name may mean: several where nothing tells which."""
        exact = _relative(name) if self._folder.has(name) else None
        return self._folder.nearest(name) if exact is None else [exact]


class _Folder:
    """A folder in which images are looked for; it is listed when a name is not there as written, if that is allowed."""

    def __init__(self, root: Path, may_search: bool, split: str) -> None:
        self.root, self._may_search, self._split = root, may_search, split

    def has(self, name: str) -> bool:
        """Is there a file of exactly this name?"""
        relative = _relative(name)
        try:
            return relative is not None and (self.root / relative).is_file()
        except (OSError, ValueError):  # a name too long for a file, or with a zero byte
            return False

    def nearest(self, name: str) -> list[str]:
        """The files that a name may mean. Label Studio puts eight digits before the names of uploads."""
        if not self._may_search:
            return []
        address = address_path(name)
        found = map(self._paths.nearest, (name, address, _UPLOAD.sub("", address)))
        folders = _parts(address)[:-1]
        return [path for path in next(filter(None, found), ()) if not self._is_of_another(path, folders)]

    def _is_of_another(self, path: str, folders: Sequence[str]) -> bool:
        """Whether a path leads into the folder of another split, and the folders that were written do not say so."""
        words = {split_word(part) for part in _parts(path)[:-1]} - {""}
        may_be = not self._split or not words or words & {self._split, "trainval"}
        return not may_be and self._split != "trainval" and not _common_end(_parts(path)[:-1], folders)

    @cached_property
    def _paths(self) -> PathEnds:
        return PathEnds(self.paths)

    @cached_property
    def paths(self) -> list[str]:
        """All images below, sorted."""
        return find_images(self.root)


class PathEnds:
    """Paths by their ends, for names that were written elsewhere: in any case, with either slash, with or without suffix."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            name = _folded(PurePosixPath(path).name)
            for key in (name, f"{without_suffix(name)}."):
                self._by_name.setdefault(key, []).append(path)

    def nearest(self, name: str) -> list[str]:
        """The paths with this last name (or stem, for a name without suffix) whose folders fit best; several in doubt."""
        wanted = _parts(name)
        if not wanted:
            return []
        last = _folded(wanted[-1])
        found = self._by_name.get(last if is_image_name(last) else f"{last}.", [])
        exact = [path for path in found if PurePosixPath(path).name.startswith(wanted[-1])]
        fits = {path: _common_end(_parts(path)[:-1], wanted[:-1]) for path in exact or found}
        return [path for path, fit in fits.items() if fit == max(fits.values())]


def address_path(name: str) -> str:
    """The path in an address as tools write it: `http://host/a%20b.jpg?x=1`, Label Studio's `/data/local-files/?d=a.jpg`."""
    try:
        parts = urlsplit(name)
    except ValueError:  # a host that is none
        return name
    return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]


def _folded(name: str) -> str:
    """A name without what systems and tools change: case, composition of accents, blanks."""
    return unicodedata.normalize("NFC", name).casefold().strip().replace(" ", "_")


def without_suffix(name: str) -> str:
    """A name without the suffix of an image; other dots belong to it."""
    return name[: name.rindex(".")] if is_image_name(name) else name


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
        if first.casefold() != second.casefold():
            break
        count += 1
    return count
