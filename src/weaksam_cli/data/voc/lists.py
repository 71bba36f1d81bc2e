"""The lists that say which image of a VOC-like dataset is in which split: PASCAL's own, and what people write instead.

An entry may be an id or a file, with or without folders and suffix, alone in its line or before other columns.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import SPLIT_NAMES, split_name, subfolders
from weaksam_cli.data.image_files import PathEnds, without_suffix
from weaksam_cli.data.images import is_image_name

_SETS: Final = re.compile(r"image_?sets?", re.IGNORECASE)
_BESIDE: Final = re.compile(r"lists?|splits?|sets?|data|meta", re.IGNORECASE)
_LIST: Final = re.compile(r"(?<=[a-z])(list|set|split)s?(?![a-z])", re.IGNORECASE)
_SUFFIXES: Final = (".txt", ".csv", ".lst", ".list", "")
_MAX_BYTES: Final = 64 * 1000**2
_SHOWN: Final = 100
_FLAGS: Final = frozenset({"-1", "0", "1"})


@dataclass
class Lists:
    """What the lists of a dataset say.

    Attributes:
        ids: split -> ids in the order of its list; what is no image of the dataset stands as it is written.
        warnings: what is to be told.
    """

    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_lists(
    root: Path, near: Iterable[Path], task: str, ids: Collection[str], classes: Callable[[], set[str]]
) -> Lists:
    """The lists in the first place that has some: `ImageSets/<task>`, `ImageSets`, its other folders, beside the images.

    Args:
        root: the folder of the dataset.
        near: other folders in which lists may lie.
        task: the folder of `ImageSets` that comes first.
        ids: of all images.
        classes: all classes, in lower case; asked for where lists may be of classes.
    """
    sets = sets_folder(root)
    tasks = subfolders(sets) if sets is not None else []
    divided = [folder for folder in tasks if split_name(folder.name)]
    official = [[sets / task], [sets], divided, *([folder] for folder in tasks)] if sets is not None else []
    others = [root, *near, *(child for child in subfolders(root) if _BESIDE.fullmatch(child.name))]
    reader, unread = _Reader(ids, classes), list[Path]()
    for places in (*official, *([place] for place in dict.fromkeys(others))):
        found: dict[str, tuple[str, ...]] = {}
        for place in places:
            found |= reader.read(place, places in official)
            unread += reader.unread
        if found:
            warnings = list(_unread(unread, root))
            if official and places != official[0]:
                missing, used = (_shown(folder, root) for folder in (official[0][0], places[0]))
                warnings.insert(0, f"there is no list in {missing}; those of {used} are used")
            return Lists(found, warnings)
    unread += [path for path in sorted(sets.rglob("*")) if path.is_file()] if sets is not None else []
    return Lists({}, list(_unread(unread, root)))


def read_list(path: Path, ids: Collection[str]) -> tuple[str, ...]:
    """The images that a list names, in any spelling; () where there is no such file. `ids` are those of all images."""
    reader, lines = _Reader(ids, set), _lines(path)
    return reader.ids_of(lines, path)


def sets_folder(root: Path) -> Path | None:
    """PASCAL's folder of lists."""
    return next((child for child in subfolders(root) if _SETS.fullmatch(child.name)), None)


def _unread(paths: Sequence[Path], root: Path) -> Iterator[str]:
    if paths:
        names = dict.fromkeys(_shown(path, root) for path in paths)
        yield f"{len(names)} files are not understood as lists of this dataset and not used: {first_few(names)}"


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def unlisted(lists: Mapping[str, Sequence[str]], ids: Collection[str]) -> Iterator[str]:
    """What is to be told of images that no list names."""
    left = set(ids).difference(*lists.values())
    if left:
        yield f"{len(left)} images stand in no list and are in no split: {first_few(sorted(left), 3)}"


class _Reader:
    """Reads the lists of a folder.

    Attributes:
        unread: files that are no lists, of the folder that was read last.
    """

    def __init__(self, ids: Collection[str], classes: Callable[[], set[str]]) -> None:
        self._ids, self._ends, self._classes = frozenset(ids), PathEnds(ids), classes
        self.unread: list[Path] = []

    def read(self, folder: Path, is_official: bool) -> dict[str, tuple[str, ...]]:
        """Split -> ids. Lists per class (`cat_trainval.txt`: a flag behind each id) count where there is no other."""
        self.unread = []
        lists, of_classes = dict[str, tuple[str, ...]](), dict[str, tuple[str, ...]]()
        for path in self._files(folder, is_official):
            lines = _lines(path)
            found = [self._find(line) for line in lines]
            name = path.stem if is_official and not split_name(folder.name) else _split_of(path)
            hits = sum(item is not None for item in found)
            is_list = hits > 0 or name.casefold() in SPLIT_NAMES if is_official else 2 * hits >= len(lines)
            if not lines or not is_list:
                self.unread.append(path)
                continue
            ids = _ids(lines, found, path)
            prefix, _, split = name.rpartition("_")
            if (
                prefix
                and split.casefold() in SPLIT_NAMES
                and (_are_flagged(lines) or prefix.casefold() in self._classes())
            ):
                of_classes[split] = tuple(dict.fromkeys([*of_classes.get(split, ()), *ids]))
            else:
                lists[name] = tuple(dict.fromkeys([*lists[name], *ids])) if name in lists else ids
        return {**of_classes, **lists}

    def ids_of(self, lines: Sequence[str], path: Path) -> tuple[str, ...]:
        """The ids of the lines of a list."""
        return _ids(lines, [self._find(line) for line in lines], path) if lines else ()

    def _files(self, folder: Path, is_official: bool) -> list[Path]:
        """The files that may be lists; outside ImageSets, those that are named as a split and lie beside no image."""
        if not folder.is_dir():
            return []
        files = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_file())
        if is_official:
            return files
        named = [
            path for path in files if split_name(_LIST.sub("", path.stem)) and path.stem not in self._ids
        ]
        return [path for path in named if path.suffix.casefold() != ".xml" and not is_image_name(path.name)]

    def _find(self, line: str) -> str | None:
        """The id that a line means by all of it, by its first column, or by its first word."""
        first = re.split(r"[,;\t]", line, maxsplit=1)[0]
        names = [text.strip(" \"'") for text in (line, first, *first.split()[:1])]
        spellings = list(dict.fromkeys(spelling for name in names for spelling in (name, _bare(name))))
        if known := [spelling for spelling in spellings if spelling in self._ids]:
            return known[0]
        return next((near[0] for text in spellings if len(near := self._ends.nearest(text)) == 1), None)


def _split_of(path: Path) -> str:
    """The split that a file names (`trainlist.txt`), or its folder does."""
    return split_name(_LIST.sub("", path.stem)) or split_name(path.parent.name)


def _lines(path: Path) -> list[str]:
    """The lines that are not blank; none of a file that is no text of reasonable size."""
    try:
        if path.suffix.casefold() not in _SUFFIXES or not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return []
        data = path.read_bytes()
    except OSError:
        return []
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return [line.strip() for line in data.decode(encoding, "replace").splitlines() if line.strip()]


def _ids(lines: Sequence[str], found: Sequence[str | None], path: Path) -> tuple[str, ...]:
    """An id a line; the line, shortened, where it means none. Lines with columns may repeat an id: a line an object."""
    words = [_words(line) for line in lines]
    has_columns = all(len(row) > 1 for row in words)
    ids = [
        item or (row[0] if has_columns else line)[:_SHOWN]
        for line, row, item in zip(lines, words, found, strict=True)
    ]
    if path.suffix.casefold() == ".csv" and found[0] is None:
        ids = ids[1:]
    return tuple(dict.fromkeys(ids)) if has_columns else tuple(ids)


def _are_flagged(lines: Sequence[str]) -> bool:
    return all(len(words) > 1 and words[-1] in _FLAGS for words in map(_words, lines))


def _words(line: str) -> list[str]:
    return re.split(r"[\s,;]+", line)


def _bare(name: str) -> str:
    return name[:-4] if name.lower().endswith(".xml") else without_suffix(name)
