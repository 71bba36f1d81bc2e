"""LabelMe (and X-AnyLabeling, AnyLabeling): a JSON file beside each image, with polygons, rectangles, masks and flags."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import read_json
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, likely_folders, role_of, subfolders
from weaksam_cli.data.outlines import box_of_points, png_mask, polygon_mask
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "json files with shapes and imagePath (LabelMe)"
_WHOLE: Final = "trainval"
_PROBES: Final = 5

Mask = Callable[[int, int], bytes]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Recipe(ReadRecipe):
    """How LabelMe's files are read."""

    method: Literal["labelme"] = "labelme"


class Shape(BaseModel):
    """What was drawn."""

    label: Text
    points: list[Annotated[list[float], Field(min_length=2, max_length=3)]] = []
    shape_type: str = "polygon"
    mask: str | None = None
    difficult: bool | None = None


class File(BaseModel):
    """A file of LabelMe; its image data are passed over."""

    shapes: list[Shape]
    flags: dict[str, bool] | None = None
    image_path: Annotated[str, Field(alias="imagePath")]
    height: Annotated[int | None, Field(alias="imageHeight")] = None
    width: Annotated[int | None, Field(alias="imageWidth")] = None


_FILE: Final = TypeAdapter(File)


def likeness(source: Path) -> int:
    """3 where json files have shapes and an imagePath."""
    files = [path for _, paths in _files(source).values() for path in paths[:_PROBES]]
    return 3 * any(_is_labelme(path) for path in files)


def read(source: Path, _recipe: Recipe, images: Path | None, *, boxes: bool) -> RawDataset:
    """What the files in a folder say; folders named as splits are splits.

    Raises:
        UserError: there is none, or one that cannot be read.
    """
    files = _files(source)
    if not files:
        raise UserError("no json file here", where=str(source), remedy="Give the folder of LabelMe's files")

    def split(name: str) -> RawSplit:
        folder, paths = files[name]
        found = [_image(path, folder, boxes) for path in paths]
        return RawSplit(name, folder, found, likely_folders(folder, images))

    return RawDataset(source, tuple(files), {name: role_of(name) for name in files}, split)


def _files(source: Path) -> dict[str, tuple[Path, list[Path]]]:
    """Split -> folder and files: of the folder itself, else of folders in it that are named as splits, else all below it."""
    if not source.is_dir():
        return {}
    for folder in (source, *(source / name for name in ("labels", "annotations", "json", "labels_json"))):
        if folder.is_dir() and (own := sorted(folder.glob("*.json"))):
            return {_WHOLE: (folder, own)}
    inner = {child: sorted(child.rglob("*.json")) for child in subfolders(source)}
    parts = {
        child.name: (child, files)
        for child, files in inner.items()
        if files and child.name.casefold() in SPLIT_NAMES
    }
    below = [path for files in inner.values() for path in files]
    return parts or ({_WHOLE: (source, below)} if below else {})


def _is_labelme(path: Path) -> bool:
    start = beginning(path, 1 << 16)
    return b'"shapes"' in start and (b'"imagePath"' in start or b'"imageData"' in start)


def _image(path: Path, folder: Path, boxes: bool) -> RawImage:
    file = read_json(path, _FILE, remedy="Give files as LabelMe saves them, or move this one away")
    objects = [_object(shape, number, boxes) for number, shape in enumerate(file.shapes, start=1)]
    shown = {item.name for item in objects}
    flags = [
        RawObject(name, title="flag", box="a flag has no box")
        for name, on in (file.flags or {}).items()
        if on
    ]
    declared = (file.height, file.width) if file.height and file.width else None
    # The path is that of the machine where it was drawn; the file has the name of its image.
    suffix = PurePosixPath(file.image_path.replace("\\", "/")).suffix or ".jpg"
    return RawImage(
        path.relative_to(folder).with_name(path.stem + suffix).as_posix(),
        (*objects, *(flag for flag in flags if flag.name not in shown)),
        declared=declared,
    )


def _object(shape: Shape, number: int, boxes: bool) -> RawObject:
    title = f"shape {number}"
    if not boxes:
        return RawObject(shape.label, bool(shape.difficult), title)
    points = [value for point in shape.points for value in point[:2]]
    if shape.shape_type == "mask":
        box, mask = _painted(points, shape.mask)
    else:
        box = _box(shape.shape_type, points)
        mask = polygon_mask([points]) if shape.shape_type == "polygon" else None
    return RawObject(shape.label, bool(shape.difficult), title, box, mask=mask)


def _painted(points: list[float], png: str | None) -> tuple[RawBox | str, Mask | None]:
    """Box and mask of a mask, whose points are its first and its last pixel."""
    if len(points) != 4:
        return f"a mask of {len(points) // 2} points has no box", None
    if not all(map(isfinite, points)):
        return box_of_points(points), None
    left, top, right, bottom = map(int, points)
    size = (bottom + 1 - top, right + 1 - left)
    box = (float(left), float(top), float(right + 1), float(bottom + 1))
    return box, png_mask(left, top, size, png) if png else None


def _box(kind: str, points: list[float]) -> RawBox | str:
    if kind == "circle" and len(points) == 4:
        x, y = points[:2]
        radius = ((points[2] - x) ** 2 + (points[3] - y) ** 2) ** 0.5
        return x - radius, y - radius, x + radius, y + radius
    if kind in ("polygon", "rectangle", "rotation") and len(points) >= 4:
        return box_of_points(points)
    return f"a {kind} of {len(points) // 2} points has no box"
