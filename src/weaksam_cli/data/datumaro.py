"""Datumaro's own format: `annotations/<split>.json` with items and label categories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import read_json
from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import ReadRecipe, likely_folders, role_of
from weaksam_cli.data.outlines import box_of_points, numbers, polygon_mask
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "annotations/*.json with items (Datumaro)"
_REMEDY: Final = "Give a dataset in the format 'datumaro'"


class Recipe(ReadRecipe):
    """How Datumaro's files are read."""

    method: Literal["datumaro"] = "datumaro"


class Label(BaseModel):
    """A class."""

    name: str


class Labels(BaseModel):
    """The classes, by their place."""

    labels: list[Label] = []


class Categories(BaseModel):
    """What kinds of categories there are."""

    label: Labels = Labels()


class Annotation(BaseModel):
    """An annotation of any type."""

    id: int | None = None
    type: str
    label_id: int | None = None
    bbox: list[Any] | None = None
    points: list[Any] | None = None
    attributes: dict[str, Any] = {}


class Media(BaseModel):
    """The file of an item; the size is (height, width)."""

    path: str = ""
    size: list[int] | None = None


class Item(BaseModel):
    """An image with its annotations."""

    id: str
    annotations: list[Annotation] = []
    image: Media | None = None
    media: Media | None = None


class File(BaseModel):
    """A split."""

    categories: Categories = Categories()
    items: Annotated[list[Item], Field(min_length=1)]


_FILE: Final = TypeAdapter(File)


def likeness(source: Path) -> int:
    """3 where there are files with items."""
    return 3 if datumaro_files(source) else 0


def datumaro_files(source: Path) -> dict[str, Path]:
    """Split -> file."""
    folder = source / "annotations" if (source / "annotations").is_dir() else source
    candidates = [source] if source.is_file() else sorted(folder.glob("*.json")) if folder.is_dir() else []
    return {path.stem: path for path in candidates if _is_datumaro(beginning(path))}


def _is_datumaro(start: bytes) -> bool:
    return (b'"items"' in start and b'"categories"' in start) or b'"dm_format_version"' in start


def read(source: Path, _recipe: Recipe, images: Path | None, *, boxes: bool) -> RawDataset:
    """What a Datumaro dataset says.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    files = datumaro_files(source)
    if not files:
        raise UserError("no dataset of Datumaro here", where=str(source), remedy=_REMEDY)

    def split(name: str) -> RawSplit:
        path = files[name]
        file = read_json(path, _FILE, remedy=_REMEDY)
        names = [label.name for label in file.categories.label.labels]
        found = [_image(item, names, path, boxes) for item in file.items]
        return RawSplit(name, path, found, likely_folders(path.parent, images, name))

    return RawDataset(source, tuple(files), {name: role_of(name) for name in files}, split)


def _image(item: Item, names: list[str], path: Path, boxes: bool) -> RawImage:
    media = item.image or item.media or Media()
    size = media.size
    declared = (size[0], size[1]) if size is not None and len(size) == 2 and min(size) > 0 else None
    objects = tuple(_objects(item, names, path, boxes))
    return RawImage(media.path or f"{item.id}.jpg", objects, declared=declared)


def _objects(item: Item, names: list[str], path: Path, boxes: bool) -> Iterator[RawObject]:
    for number, annotation in enumerate(item.annotations, start=1):
        if annotation.label_id is None:
            continue
        if not 0 <= annotation.label_id < len(names):
            raise UserError(
                f"annotation {number}: there is no label {annotation.label_id}, there are {len(names)}",
                where=f"{path}: {item.id}",
            )
        name, title = names[annotation.label_id], f"annotation {number}"
        difficult = (
            annotation.attributes.get("difficult") is True or annotation.attributes.get("is_crowd") is True
        )
        yield _outlined(annotation, name, title, difficult) if boxes else RawObject(name, difficult, title)


def _outlined(annotation: Annotation, name: str, title: str, difficult: bool) -> RawObject:
    if annotation.type == "polygon" and annotation.points is not None:
        points = numbers(annotation.points)
        if points is None or len(points) < 6 or len(points) % 2:
            return RawObject(name, difficult, title, "its points are no polygon")
        return RawObject(name, difficult, title, box_of_points(points), mask=polygon_mask([points]))
    values = None if annotation.bbox is None else numbers(annotation.bbox)
    if values is None or len(values) != 4:
        return RawObject(name, difficult, title, f"a {annotation.type[:20]} has no box")
    left, top, width, height = values
    return RawObject(name, difficult, title, (left, top, left + width, top + height))
