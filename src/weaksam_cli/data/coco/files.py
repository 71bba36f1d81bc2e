"""Where the instances files of a COCO-like dataset lie, and to which splits they belong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from weaksam_cli.core.files import beginning
from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import ANNOTATION_FOLDERS, SPLIT_NAMES, split_word, subfolders

_OTHER_KINDS: Final = ("person_keypoints", "captions", "stuff", "panoptic", "image_info")
_MARKS: Final = (b'"images"', b'"annotations"', b'"categories"')
_TAIL: Final = 4096
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_ANY_FILE: Final = frozenset(
    ("", "annotations", "annotation", "ann", "result", "coco", "labels", "default", "instances", "data")
)
"""Names of files that say nothing of a split."""
_DEPTH: Final = 3


class CocoFiles(NamedTuple):
    """Instances files by split.

    Attributes:
        splits: split -> file.
        told: what is to be told.
        unclear: why nothing is read although there are such files.
    """

    splits: dict[str, Path]
    told: tuple[str, ...] = ()
    unclear: str = ""


def coco_files(source: Path, depth: int = _DEPTH) -> CocoFiles:
    """The instances files that `source` means: itself, or those below it.

    In a folder: those of its split folders (`train/_annotations.coco.json`), else of `annotations`, else its own, else those
    of the only folder below that has some. The split of `instances_train2017.json` is `train2017`; that of the only file in
    a folder named as a split is the folder's.
    """
    if source.is_file():
        return CocoFiles({_split_of(source): source} if _is_json(source) else {})
    if not source.is_dir():
        return CocoFiles({})
    for found in (_of_split_folders(source), *map(_of_folder, _annotation_folders(source))):
        if found.splits or found.unclear:
            return found
    below = [(child.name, coco_files(child, depth - 1)) for child in subfolders(source)] if depth else []
    below = [(name, found) for name, found in below if found.splits or found.unclear]
    if len(below) > 1:
        return CocoFiles(
            {}, unclear=f"several folders hold instances files: {first_few(name for name, _ in below)}"
        )
    return below[0][1] if below else CocoFiles({})


def _annotation_folders(folder: Path) -> list[Path]:
    """The folders in which annotations of a dataset may lie, the likeliest first."""
    inner = {child.name.casefold(): child for child in subfolders(folder)}
    return [*(inner[name] for name in ANNOTATION_FOLDERS if name in inner), folder]


def _of_split_folders(source: Path) -> CocoFiles:
    """The files of folders that are named as splits, in `source` or its folder of annotations."""
    for base in reversed(_annotation_folders(source)):
        parts = {child.name: child for child in subfolders(base) if split_word(child.name)}
        files = {name: _first(map(_instances, _annotation_folders(child))) for name, child in parts.items()}
        if any(files.values()):
            several = [path for found in files.values() if len(found) > 1 for path in found]
            unclear = _unclear(several, source) if several else ""
            bare = [name for name, found in files.items() if not found and name.casefold() in SPLIT_NAMES]
            told = [f"no instances file is in {first_few(bare)}, whose images are not read"] if bare else []
            told += _left_over(source, ())
            return CocoFiles({name: found[0] for name, found in files.items() if found}, tuple(told), unclear)
    return CocoFiles({})


def _of_folder(folder: Path) -> CocoFiles:
    """The files that lie in a folder itself."""
    found = _instances(folder)
    splits = {_split_of(path): path for path in found}
    if len(found) == 1 and folder.name.casefold() in SPLIT_NAMES:
        splits = {folder.name: found[0]}
    named = len(found) == 1 or all(_rank(path) for path in found)
    unclear = "" if named and len(splits) == len(found) else _unclear(found, folder)
    return CocoFiles(splits, tuple(_left_over(folder, found)) if found else (), unclear)


def _unclear(files: Sequence[Path], source: Path) -> str:
    names = first_few(path.relative_to(source).as_posix() for path in files)
    return f"nothing tells which of these instances files are meant, and of which split: {names}"


def _left_over(folder: Path, found: Sequence[Path]) -> list[str]:
    left = [path.name for path in _json_files(folder) if path not in found]
    return [f"{len(left)} json files in {folder.name} are not read: {first_few(left)}"] if left else []


def _instances(folder: Path) -> list[Path]:
    """The instances files in a folder: those named so, else those named by a split, else all of that content."""
    found = [path for path in _json_files(folder) if _looks_like_coco(path)]
    plain = [path for path in found if not path.stem.casefold().startswith(_OTHER_KINDS)]
    best = max(map(_rank, plain), default=0)
    return [path for path in plain if _rank(path) == best]


def _rank(path: Path) -> int:
    """How surely a name is that of an instances file of a split."""
    stem = path.stem.casefold()
    if stem.startswith("instances") or stem == "_annotations.coco":
        return 2
    return int(any(word.casefold() in SPLIT_NAMES for word in _WORDS.findall(path.stem)))


def _json_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_json(path) and not path.name.startswith("."))


def _is_json(path: Path) -> bool:
    return path.suffix.casefold() == ".json" and path.is_file()


def _first(found: Iterable[list[Path]]) -> list[Path]:
    return next((paths for paths in found if paths), [])


def _looks_like_coco(path: Path) -> bool:
    """Whether it is called so, or the beginning or the end of the file has COCO's fields."""
    if path.stem.casefold().startswith("instances"):
        return True
    start = beginning(path)
    if start.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] != b"{":
        return False
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            end = handle.read()
    except OSError:
        return False
    return any(mark in start or mark in end for mark in _MARKS)


def _split_of(path: Path) -> str:
    """The split of a file: by its name, else by a folder that is named as one."""
    name = path.stem.removesuffix(".coco").removeprefix("instances").strip("_-")
    if name.casefold() not in _ANY_FILE:
        return name
    for folder in (path.parent, path.parent.parent):
        if folder.name.casefold() in SPLIT_NAMES:
            return folder.name
        if folder.name.casefold() not in ANNOTATION_FOLDERS:
            break
    return name or path.stem
