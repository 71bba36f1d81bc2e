"""YOLO: `data.yaml` (or darknet's `obj.data`), and a text file an image with lines `class x y w h` in fractions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Literal

from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawDataset, RawImage, RawSplit
from weaksam_cli.data.dataset import ReadRecipe, Remarks, role_of
from weaksam_cli.data.images import find_images
from weaksam_cli.data.yolo.folders import YoloFolder, find_yolo, own_images, place_of
from weaksam_cli.data.yolo.labels import first_line, label_values, labels_of, objects_of, text_of
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "data.yaml with labels/*.txt (YOLO)"
_LIST_BYTES: Final = 64 * 1000**2


class Recipe(ReadRecipe):
    """How a YOLO dataset is read."""

    method: Literal["yolo"] = "yolo"


def likeness(source: Path) -> int:
    """3 where a yaml names classes and splits, or text files of labels lie beside images."""
    try:
        return 3 if find_yolo(source) is not None else 0
    except UserError:
        return 3  # it is one, and `read` says what is wrong with it


def read(source: Path, _recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What a YOLO dataset says; an image without a text file shows nothing, as ultralytics has it.

    A split in which no image has a text file is one that nobody annotated.

    Raises:
        UserError: there is none, its images are not found, a class has no name, or `images` are given.
    """
    if images is not None:
        what = "a YOLO dataset says itself where its images are"
        raise UserError(
            what, where="--images", remedy="Leave it out, and correct data.yaml where it is wrong"
        )
    found = find_yolo(source)
    if found is None:
        raise UserError(
            "no YOLO dataset here",
            where=str(source),
            remedy="Give data.yaml, or the folder above images and labels",
        )

    listed = {name: list(_listed(found, name)) for name in found.splits}
    labels = {path: labels_of(path) for paths in listed.values() for path in paths if isinstance(path, Path)}

    def split(name: str) -> RawSplit:
        remarks = Remarks()
        for item in listed[name]:
            if isinstance(item, str):
                remarks.fail(item, "there is no such image")
        paths = [item for item in listed[name] if isinstance(item, Path)]
        bare = [_key(path, found.base) for path in paths if not labels[path].is_file()]
        is_annotated = len(bare) < len(paths)
        images = [
            RawImage(
                path.name,
                objects_of(labels[path], found.names, boxes) if is_annotated else None,
                _key(path, found.base),
                path,
            )
            for path in paths
        ]
        if bare:
            so = "so show nothing" if is_annotated else "nothing else has one, so their labels are unknown"
            told = f"{len(bare)} of {len(images)} images have no text file and {so}: {first_few(bare, 3)}"
            remarks.warn("", told)
        if orphans := _orphans({labels[path].parent for path in paths}, set(labels.values())):
            told = f"{len(orphans)} text files of labels have no image: {first_few(orphans, 3)}"
            remarks.warn("", told)
        return RawSplit(name, found.where, images, fractions=True, remarks=remarks)

    names = found.names.by_number
    ids = None if names is None else {name: number for number, name in sorted(names.items())}
    roles = {name: role_of(name) for name in found.splits}
    return RawDataset(found.where, tuple(roles), roles, split, class_ids=ids, warnings=found.warnings)


def _listed(found: YoloFolder, split: str) -> Iterator[Path | str]:
    """The images of a split; the name of one that is not there."""
    for place in found.splits[split]:
        if place.is_dir():
            own = own_images(place)
            yield from (own / key for key in find_images(own))
            continue
        for line in text_of(place, _LIST_BYTES).splitlines():
            if name := line.strip():
                yield place_of(name, [place.parent, found.base]) or name


def _key(path: Path, base: Path) -> str:
    return (path.relative_to(base) if path.is_relative_to(base) else path.relative_to(path.anchor)).as_posix()


def _orphans(folders: Collection[Path], known: Collection[Path]) -> list[str]:
    """The text files of labels in folders that belong to no image."""
    found = [path for folder in sorted(folders) for path in sorted(folder.glob("*.txt")) if path not in known]
    return [path.name for path in found if label_values(first_line(path)) is not None]
