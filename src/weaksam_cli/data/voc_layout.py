"""Where things lie in a VOC dataset: the folder, its splits, the lists of ids, the image of an id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.paths import first_few, inside, role_of
from weaksam_cli.data.types import Role, VocTask
from weaksam_cli.errors import UserError

VOC_CLASSES: Final = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The official order, which the integer ids of published files follow."""

IMAGES: Final = "JPEGImages"
ANNOTATIONS: Final = "Annotations"
_FLAGS: Final = frozenset({"-1", "0", "1"})


@dataclass(frozen=True)
class VocFolder:
    """One VOC release: `root` holds JPEGImages, Annotations and, mostly, ImageSets.

    Attributes:
        root: the folder.
        lists: split name to its list of ids; empty without ImageSets, when all annotated images are one split.
    """

    root: Path
    lists: Mapping[str, Path]

    def annotation(self, image_id: str) -> Path:
        """Path of the XML file of an image, whether or not it exists."""
        return self.root / ANNOTATIONS / f"{image_id}.xml"


def is_voc_root(folder: Path) -> bool:
    """Whether `folder` holds JPEGImages and Annotations."""
    return (folder / IMAGES).is_dir() and (folder / ANNOTATIONS).is_dir()


def voc_candidates(source: Path) -> tuple[Path, ...]:
    """The VOC folders that `source` can mean: itself, or those below it or below a VOCdevkit in it."""
    if is_voc_root(source):
        return (source,)
    parents = (source, source / "VOCdevkit")
    return tuple(
        child
        for parent in parents
        if parent.is_dir()
        for child in sorted(parent.iterdir())
        if is_voc_root(child)
    )


def open_voc(source: Path, *, year: str | None = None, task: VocTask = "Main") -> VocFolder:
    """Find the VOC folder that `source` means and its splits.

    Raises:
        UserError: when there is none, or several and `year` does not choose one.
    """
    found = voc_candidates(source)
    wanted = [folder for folder in found if year is None or folder.name.casefold() in (year, f"voc{year}")]
    if year is not None and found == (source,) and not wanted:
        # A single folder of any name needs no year; one that names another year is a mistake.
        wanted = [] if source.name.casefold().startswith("voc20") else [source]
    if not wanted:
        missing = f"with the year {year} " if year else ""
        raise UserError(
            f"no VOC dataset {missing}here",
            where=str(source),
            remedy=f"Found: {first_few(folder.name for folder in found)}"
            if found
            else f"Give the folder that holds {IMAGES} and {ANNOTATIONS}, or the VOCdevkit above it",
        )
    if len(wanted) > 1:
        raise UserError(
            f"several VOC datasets here: {first_few(folder.name for folder in wanted)}",
            where=str(source),
            remedy="Choose one with --year, such as --year 2007, or give its folder",
        )
    return VocFolder(wanted[0], _split_lists(wanted[0] / "ImageSets" / task))


def default_splits(names: Mapping[str, Path]) -> dict[str, Role]:
    """The splits to read when nobody chose: those that do not overlap, the larger official one first.

    trainval with test; else train with val, or with test; else all lists, each with the role that its name suggests.
    """
    for train, test in (("trainval", "test"), ("train", "val"), ("train", "test"), ("trainval", None)):
        if train in names and (test is None or test in names):
            return {train: "train"} if test is None else {train: "train", test: "test"}
    return {name: role_of(name) for name in names}


def read_ids(folder: VocFolder, split: str) -> list[str]:
    """Image ids of a split in the order of its list; a +1/-1 column behind all ids is dropped.

    Raises:
        UserError: for an unknown split, an unreadable or empty list, or an id that leaves the folder.
    """
    if not folder.lists:
        ids = sorted(path.stem for path in (folder.root / ANNOTATIONS).glob("*.xml"))
        if not ids:
            raise UserError(
                "no annotation here", where=str(folder.root / ANNOTATIONS), remedy="Add the XML files"
            )
        return ids
    if split not in folder.lists:
        raise UserError(
            f"there is no split {split!r}",
            where=str(folder.root / "ImageSets"),
            remedy=f"Available: {first_few(folder.lists, 20)}",
        )
    path = folder.lists[split]
    rows = _rows(path)
    flagged = all(len(row) == 2 and row[1] in _FLAGS for row in rows)
    ids = [row[0] if flagged else " ".join(row) for row in rows]
    if not ids:
        raise UserError("the list of ids is empty", where=str(path), remedy="List one image id per line")
    for image_id in ids:
        inside(folder.root / IMAGES, image_id, where=str(path))
    return ids


def find_image(folder: VocFolder, image_id: str, declared_name: str | None) -> Path | str:
    """The image of an id, or the reason why there is none.

    When several files have this stem, the annotation's <filename> chooses.
    """
    stem = folder.root / IMAGES / image_id
    jpeg = stem.with_name(f"{stem.name}.jpg")
    found = [jpeg] if jpeg.is_file() else []
    for suffix in SUFFIXES:
        for spelled in (suffix, suffix.upper()):
            path = stem.with_name(f"{stem.name}{spelled}")
            if path != jpeg and path.is_file():
                found.append(path)
    if not found:
        return f"no image {IMAGES}/{image_id}.jpg (nor with another suffix)"
    if len(found) == 1:
        return found[0]
    named = [path for path in found if path.name == declared_name]
    if named:
        return named[0]
    return f"several images have this id ({first_few(path.name for path in found)}) and no <filename> chooses"


def _split_lists(folder: Path) -> dict[str, Path]:
    """Lists of ids by split name, without VOC's lists per class (`cat_trainval.txt`: one flag behind each id)."""
    if not folder.is_dir():
        return {}
    paths = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    return {name: path for name, path in paths.items() if not _is_class_list(name, path, paths)}


def _is_class_list(name: str, path: Path, paths: Mapping[str, Path]) -> bool:
    _, underscore, last = name.rpartition("_")
    if not underscore or last not in paths:
        return False
    rows = _rows(path)
    return bool(rows) and all(len(row) == 2 and row[1] in _FLAGS for row in rows)


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the list of ids cannot be read ({error})", where=str(path), remedy="Save it as UTF-8 text"
        ) from None
    return [line.split() for line in text.splitlines() if line.strip()]
