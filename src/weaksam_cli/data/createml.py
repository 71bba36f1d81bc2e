"""CreateML: a JSON list of images with labels and boxes by their centres, in pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AliasChoices, BaseModel, Field, StringConstraints, TypeAdapter

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import read_json
from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, likely_folders, role_of
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "a json list with coordinates (CreateML)"
_WHOLE: Final = "trainval"
_REMEDY: Final = "Give a file as CreateML reads it"


class Recipe(ReadRecipe):
    """How CreateML's files are read."""

    method: Literal["createml"] = "createml"


class Coordinates(BaseModel):
    """Centre and sides, pixels."""

    x: float
    y: float
    width: float
    height: float


class Annotation(BaseModel):
    """An object."""

    label: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    coordinates: Coordinates | None = None


class Entry(BaseModel):
    """An image."""

    image: Annotated[str, Field(validation_alias=AliasChoices("image", "imagefilename"))]
    annotations: Annotated[
        list[Annotation], Field(validation_alias=AliasChoices("annotations", "annotation"))
    ]


_FILE: Final = TypeAdapter(list[Entry])


def likeness(source: Path) -> int:
    """3 where there is a list with coordinates."""
    return 3 if createml_files(source) else 0


def createml_files(source: Path) -> dict[str, Path]:
    """Split -> file: `source` itself, the one in the folder, or one in each folder that is named as a split."""
    if source.is_file():
        return {_WHOLE: source} if _is_createml(source) else {}
    if not source.is_dir():
        return {}
    folders = [
        child for child in sorted(source.iterdir()) if child.is_dir() and child.name.casefold() in SPLIT_NAMES
    ]
    found = {folder.name: _only_file(folder) for folder in folders} | {_WHOLE: _only_file(source)}
    return {name: path for name, path in found.items() if path is not None}


def _only_file(folder: Path) -> Path | None:
    found = [path for path in folder.glob("*.json") if _is_createml(path)]
    return found[0] if len(found) == 1 else None


def _is_createml(path: Path) -> bool:
    start = beginning(path).lstrip(b"\xef\xbb\xbf \r\n\t") if path.suffix.casefold() == ".json" else b""
    return start[:1] == b"[" and b'"coordinates"' in start and b'"label"' in start


def read(source: Path, _recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What CreateML's files say.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    files = createml_files(source)
    if not files:
        raise UserError("no file of CreateML here", where=str(source), remedy=_REMEDY)

    def split(name: str) -> RawSplit:
        path = files[name]
        found = [
            RawImage(
                entry.image,
                tuple(_object(item, place, boxes) for place, item in enumerate(entry.annotations, 1)),
            )
            for entry in read_json(path, _FILE, remedy=_REMEDY)
        ]
        return RawSplit(name, path, found, likely_folders(path.parent, images))

    return RawDataset(source, tuple(files), {name: role_of(name) for name in files}, split)


def _object(item: Annotation, place: int, boxes: bool) -> RawObject:
    title, drawn = f"annotation {place}", item.coordinates
    if not boxes:
        return RawObject(item.label, title=title)
    if drawn is None:
        return RawObject(item.label, title=title, box="has no coordinates")
    half = drawn.width / 2, drawn.height / 2
    box = (drawn.x - half[0], drawn.y - half[1], drawn.x + half[0], drawn.y + half[1])
    return RawObject(item.label, title=title, box=box)
