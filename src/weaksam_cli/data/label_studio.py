"""Label Studio: its JSON and JSON-MIN exports, with rectangles, polygons, brushes and choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import read_json
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import ReadRecipe, likely_folders, role_of
from weaksam_cli.data.image_files import address_path
from weaksam_cli.data.outlines import box_of_points, numbers, share_mask
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "a json list of tasks (Label Studio)"
_WHOLE: Final = "trainval"
_REMEDY: Final = "Export from Label Studio as JSON, JSON-MIN, COCO or YOLO"
_MARKS: Final = (
    b'"annotations"',
    b'"completions"',
    b'"annotator"',
    b'"annotation_id"',
    b'labels"',
    b'"choice"',
)
_LABELS: Final = re.compile(r"\w*labels|choices")
_IMAGE: Final = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?|gif)($|[?&#])", re.IGNORECASE)


class Recipe(ReadRecipe):
    """How Label Studio's JSON is read."""

    method: Literal["label_studio"] = "label_studio"


class Result(BaseModel):
    """What an annotator drew or chose."""

    value: dict[str, Any] = {}
    width: Annotated[int | None, Field(alias="original_width")] = None
    height: Annotated[int | None, Field(alias="original_height")] = None


class Annotation(BaseModel):
    """What one annotator made of a task."""

    result: list[Result] = []
    was_cancelled: bool | None = None


class Task(BaseModel):
    """An entry of the JSON export."""

    data: dict[str, Any]
    annotations: list[Annotation] | None = None
    completions: list[Annotation] | None = None


class Row(BaseModel):
    """An entry of the JSON-MIN export: the fields of the project's own names."""

    model_config = ConfigDict(extra="allow")
    id: int


_FILE: Final = TypeAdapter(list[Task] | list[Row])


def likeness(source: Path) -> int:
    """3 where there is a list of tasks."""
    return 3 if tasks_file(source) is not None else 0


def tasks_file(source: Path) -> Path | None:
    """The export that `source` means: itself, or the only one in the folder."""
    candidates = [source] if source.is_file() else sorted(source.glob("*.json")) if source.is_dir() else []
    found = [path for path in candidates if _are_tasks(beginning(path))]
    return found[0] if len(found) == 1 else None


def _are_tasks(start: bytes) -> bool:
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
    return (
        text[:1] == b"["
        and b'"id"' in text
        and any(mark in text for mark in _MARKS)
        and b'"image_id"' not in text
    )


def read(source: Path, _recipe: Recipe, images: Path | None, *, boxes: bool) -> RawDataset:
    """What the tasks of an export say; a task that nobody annotated says nothing of its image.

    Raises:
        UserError: there is no export, or it cannot be read.
    """
    path = tasks_file(source)
    if path is None:
        raise UserError("no JSON export of Label Studio here", where=str(source), remedy=_REMEDY)
    found = [
        _of_task(item, boxes) if isinstance(item, Task) else _of_row(item, boxes)
        for item in read_json(path, _FILE, remedy=_REMEDY)
    ]
    known = [image for image in found if image is not None]
    if not known:
        raise UserError("no task has an image", where=str(path), remedy=_REMEDY)

    def split(name: str) -> RawSplit:
        return RawSplit(name, path, known, likely_folders(path.parent, images), fractions=True)

    return RawDataset(path, (_WHOLE,), {_WHOLE: role_of(_WHOLE)}, split)


def _of_task(task: Task, boxes: bool) -> RawImage | None:
    name = _image_of(task.data)
    if name is None:
        return None
    given = task.annotations if task.annotations is not None else task.completions
    kept = [item for item in given or () if not item.was_cancelled]
    results = [result for item in kept[:1] for result in item.result]
    sides = next(((item.height, item.width) for item in results if item.height and item.width), None)
    objects = tuple(_objects([item.value for item in results], boxes))
    return RawImage(name, objects if kept else None, declared=_sides(sides))


def _of_row(row: Row, boxes: bool) -> RawImage | None:
    fields = row.model_extra or {}
    name = _image_of(fields)
    if name is None:
        return None
    values: list[Mapping[str, Any]] = []
    for field, value in fields.items():
        if isinstance(value, list):
            values += [item for item in value if isinstance(item, dict)]
        elif field in ("choice", "choices") and isinstance(value, str):
            values.append({"choices": [value]})
        elif isinstance(value, dict) and "choices" in value:
            values.append(value)
    return RawImage(name, tuple(_objects(values, boxes)))


def _sides(sides: tuple[int | None, int | None] | None) -> tuple[int, int] | None:
    return (sides[0], sides[1]) if sides and sides[0] and sides[1] else None


def _image_of(fields: Mapping[str, Any]) -> str | None:
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    named = next((texts[name] for name in ("image", "img", "image_url", "url", "ocr") if name in texts), None)
    found = named or next((value for value in texts.values() if _IMAGE.search(value)), None)
    return None if found is None else address_path(found)


def _objects(values: list[Mapping[str, Any]] | list[dict[str, Any]], boxes: bool) -> Iterator[RawObject]:
    """What values with labels show; relations, texts and ratings have none."""
    for number, value in enumerate(values, start=1):
        title = f"region {number}"
        for field, names in value.items():
            if not (_LABELS.fullmatch(field) and isinstance(names, list)):
                continue
            for name in names:
                if isinstance(name, str) and name.strip():
                    yield (
                        _drawn(value, name.strip(), title) if boxes else RawObject(name.strip(), title=title)
                    )


def _drawn(value: Mapping[str, Any], name: str, title: str) -> RawObject:
    """A region with its box, and its mask where it is a polygon; percents of the sides become fractions."""
    if not isinstance(value.get("points"), list):
        return RawObject(name, title=title, box=_box(value))
    points = numbers([part for pair in value["points"] if isinstance(pair, list) for part in pair[:2]])
    if points is None or len(points) < 6:
        return RawObject(name, title=title, box="its points are no polygon")
    shares = [point / 100 for point in points]
    return RawObject(name, title=title, box=box_of_points(shares), mask=share_mask(shares))


def _box(value: Mapping[str, Any]) -> RawBox | str:
    """Percents of the sides as fractions; a rectangle that is turned has the box around it only if it is not."""
    values = numbers([value.get(side) for side in ("x", "y", "width", "height")])
    if values is None:
        return "has no box"
    if value.get("rotation") not in (None, 0, 0.0):
        return "is a turned rectangle, whose box is not known"
    left, top, width, height = values
    return left / 100, top / 100, (left + width) / 100, (top + height) / 100
