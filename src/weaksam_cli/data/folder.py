"""Labels without boxes: a folder a class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from weaksam_cli.artifacts import digest
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import ReadRecipe, Remarks, role_of, split_word
from weaksam_cli.data.images import SUFFIXES, find_images
from weaksam_cli.data.signs import NOISE, lists_near, says_no_class, signs_of_annotations, tables_near
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "folders of images named by class"
WHOLE: Final = "trainval"


class Recipe(ReadRecipe):
    """How class folders are read."""

    method: Literal["folder"] = "folder"


def likeness(source: Path) -> int:
    """1 where there are images in folders, and nothing says that they are annotated: whatever has a layout has folders."""
    if not source.is_dir():
        return 0
    tops = _tops(source)[0]
    classes = {child.name for top in tops.values() for child in _class_folders(top)}
    if any(map(says_no_class, classes)) or signs_of_annotations(source):
        return 0
    if all(split_word(name) for name in classes):
        return 0
    # A table beside several classes is about something else; beside one it may say what the images show.
    return int(len(classes) > 1 or not tables_near(source))


def read(source: Path, _recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What `source/class/...` or `source/split/class/...` says.

    The first folder is the class, however deep the image lies; folders around all classes (`data`, `images`) are passed
    through. The same image put into several class folders (same file name and same bytes) is one image with all these
    labels, under the first of its paths; equal names alone mean nothing, since many collections number their images per
    class. An image outside of every class folder is listed as failed.

    Raises:
        UserError: there is no class folder, or `images` are given.
    """
    del boxes  # there are none
    if images is not None:
        what = "class folders hold their images themselves"
        raise UserError(what, where="--images", remedy="Leave it out, or choose another --layout")
    if not source.is_dir():
        raise UserError("no such folder", where=str(source), remedy="Give a folder of class folders")
    tops, left_out = _tops(source)
    classes = sorted({child.name for top in tops.values() for child in _class_folders(top)})
    if not classes:
        raise UserError(
            "no labelled image here", where=str(source), remedy="Put the images into one folder per class"
        )

    def split(name: str) -> RawSplit:
        remarks = Remarks()
        return RawSplit(name, source, labelled(source, tops[name], remarks), remarks=remarks)

    warnings = (*left_out, *_warnings(source, tops, classes))
    roles = {name: role_of(name) for name in tops}
    return RawDataset(source, tuple(tops), roles, split, has_boxes=False, warnings=warnings)


def _warnings(source: Path, tops: Mapping[str, Path], classes: Sequence[str]) -> list[str]:
    found = []
    if signs := signs_of_annotations(source):
        found.append(f"annotations are not read, the folders are taken as classes: {first_few(signs)}")
    if suspects := [name for name in classes if says_no_class(name)]:
        found.append(f"the folders {first_few(suspects)} are read as classes")
    if tables := tables_near(source):
        found.append(f"not read, as folders say the classes: {first_few(tables)}")
    if [*tops] == [WHOLE] and (lists := lists_near(source)):
        told = f"lists are not read, and all images are {WHOLE}: {first_few(lists)}"
        found.append(f"{told}; put the images of each split into a folder of its name")
    if len(classes) == 1 and (inner := {child.name for top in tops.values() for child in _inner(top)}):
        told = f"{classes[0]} is the only class, and holds the folders {first_few(sorted(inner))}"
        found.append(f"{told}; if these are the classes, give the folder {classes[0]}")
    return found


def _inner(top: Path) -> list[Path]:
    """The folders of images in class folders."""
    return [inner for child in _class_folders(top) for inner in _class_folders(child)]


def _tops(source: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Split -> the folder in which its class folders lie; and what is to be told.

    Folders that are named as splits are splits when they hold class folders; others beside them are then left out.
    """
    top = _unwrapped(source)
    folders = _class_folders(top)
    parts = {_split_name(child): _unwrapped(child) for child in folders if split_word(child.name)}
    parts = {name: part for name, part in parts.items() if _class_folders(part)}
    if not parts:
        return {WHOLE: top}, ()
    others = [child.name for child in folders if _split_name(child) not in parts]
    told = f"the folders {first_few(others)} are not read: where there are splits, images lie in split/class/"
    return parts, (told,) if others else ()


def _split_name(folder: Path) -> str:
    return folder.name if re.fullmatch(r"[\w.-]+", folder.name) else split_word(folder.name)


def _unwrapped(folder: Path) -> Path:
    """The folder in which class folders or splits lie: a folder in it that holds all of them is passed through."""
    inner = _class_folders(folder)
    if len(inner) != 1:
        return folder
    below = _class_folders(inner[0])
    holds_splits = any(split_word(child.name) and _class_folders(child) for child in below)
    says_nothing = says_no_class(inner[0].name) or split_word(inner[0].name) == split_word(folder.name) != ""
    is_wrapper = holds_splits or (says_nothing and below and not _has_own_image(inner[0]))
    return _unwrapped(inner[0]) if is_wrapper else folder


def _class_folders(folder: Path) -> list[Path]:
    """The folders in one that hold images, without hidden ones, links, and what systems leave."""
    found = [child for child in folder.iterdir() if not child.name.startswith(".") and child.is_dir()]
    return sorted(
        child
        for child in found
        if child.name.casefold() not in NOISE and not child.is_symlink() and _has_image(child)
    )


def _has_image(folder: Path) -> bool:
    """Whether there is an image in a folder, or below it."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name.casefold() not in NOISE]
        if any(map(_is_image, files)):
            return True
    return False


def _has_own_image(folder: Path) -> bool:
    return any(_is_image(path.name) for path in folder.iterdir())


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def labelled(source: Path, top: Path, remarks: Remarks) -> list[RawImage]:
    """All images below `top` with the first folder below it as their class; keys are paths below `source`."""
    keys = [key for key in find_images(top) if not NOISE & set(key.casefold().split("/"))]
    twins = Counter(_looks(top / key) for key in keys)
    first: dict[tuple[str, str], str] = {}
    labels: dict[str, set[str]] = {}
    for key in keys:
        path, (name, *inner) = top / key, PurePosixPath(key).parts
        if not inner and not path.is_dir():
            remarks.fail(path.relative_to(source).as_posix(), "lies in no class folder")
            continue
        same = key
        if twins[_looks(path)] > 1 and path.is_file():  # of another, `size_of` says what it is
            same = first.setdefault((path.name, digest.of_file(path)), key)
        labels.setdefault(same, set()).add(name)
    return [
        RawImage(
            key,
            tuple(RawObject(name) for name in sorted(names)),
            (top / key).relative_to(source).as_posix(),
            top / key,
        )
        for key, names in labels.items()
    ]


def _looks(path: Path) -> tuple[str, int]:
    """Name and size: files that differ in these are not the same."""
    try:
        return path.name, path.stat().st_size
    except OSError:
        return path.name, -1
