"""Label Studio: its JSON and JSON-MIN exports, with rectangles, polygons, brushes and choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import read_json
from weaksam_cli.core.masks import encode, tight_boxes
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.brush import painted
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
    b'"rle"',
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


def read(source: Path, recipe: Recipe, images: Path | None, *, boxes: bool) -> RawDataset:
    """What the tasks of an export say; a task that nobody annotated says nothing of its image.

    Raises:
        UserError: there is no export, or it cannot be read.
    """
    path = tasks_file(source)
    if path is None:
        raise UserError("no JSON export of Label Studio here", where=str(source), remedy=_REMEDY)
    found = [
        _of_task(item, recipe, boxes) if isinstance(item, Task) else _of_row(item, recipe, boxes)
        for item in read_json(path, _FILE, remedy=_REMEDY)
    ]
    known = [image for image in found if image is not None]
    if not known:
        raise UserError("no task has an image", where=str(path), remedy=_REMEDY)

    def split(name: str) -> RawSplit:
        return RawSplit(name, path, known, likely_folders(path.parent, images), fractions=True)

    return RawDataset(path, (_WHOLE,), {_WHOLE: role_of(_WHOLE)}, split)


def _of_task(task: Task, recipe: Recipe, boxes: bool) -> RawImage | None:
    name = _image_of(task.data)
    if name is None:
        return None
    given = task.annotations if task.annotations is not None else task.completions
    kept = [item for item in given or () if not item.was_cancelled]
    results = [result for item in kept[:1] for result in item.result]
    sides = next(((item.height, item.width) for item in results if item.height and item.width), None)
    values = [item.value | {"original_height": item.height, "original_width": item.width} for item in results]
    objects = tuple(_objects(values, recipe, boxes))
    return RawImage(name, objects if kept else None, declared=_sides(sides))


def _of_row(row: Row, recipe: Recipe, boxes: bool) -> RawImage | None:
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
    return RawImage(name, tuple(_objects(values, recipe, boxes)))


def _sides(sides: tuple[int | None, int | None] | None) -> tuple[int, int] | None:
    return (sides[0], sides[1]) if sides and sides[0] and sides[1] else None


def _image_of(fields: Mapping[str, Any]) -> str | None:
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    named = next((texts[name] for name in ("image", "img", "image_url", "url", "ocr") if name in texts), None)
    found = named or next((value for value in texts.values() if _IMAGE.search(value)), None)
    return None if found is None else address_path(found)


def _objects(values: Sequence[Mapping[str, Any]], recipe: Recipe, boxes: bool) -> Iterator[RawObject]:
    """What values with labels show; relations, texts and ratings have none."""
    for number, value in enumerate(values, start=1):
        title = f"region {number}"
        for field, names in value.items():
            if not (_LABELS.fullmatch(field) and isinstance(names, list)):
                continue
            for name in names:
                if isinstance(name, str) and name.strip():
                    region = RawObject(name.strip(), title=title)
                    yield _drawn(value, region, recipe.max_pixels) if boxes else region


def _drawn(value: Mapping[str, Any], region: RawObject, max_pixels: int) -> RawObject:
    """A region with its box, and its mask where it is a polygon or painted; percents of the sides become fractions."""
    if "rle" in value:
        return _brushed(value, region, max_pixels)
    if not isinstance(value.get("points"), list):
        return replace(region, box=_box(value))
    points = numbers([part for pair in value["points"] if isinstance(pair, list) for part in pair[:2]])
    if points is None or len(points) < 6:
        return replace(region, box="its points are no polygon")
    shares = [point / 100 for point in points]
    return replace(region, box=box_of_points(shares), mask=share_mask(shares))


def _brushed(value: Mapping[str, Any], region: RawObject, max_pixels: int) -> RawObject:
    """A region that a brush painted, with the tight box of its mask; its strokes have no other."""
    size = (value.get("original_height"), value.get("original_width"))
    height, width = size
    if not (type(height) is type(width) is int and height > 0 and width > 0):
        return replace(region, box="does not say the size of its image, so its brush strokes have no place")
    if height * width > max_pixels:
        return replace(region, box=f"is painted on {height} x {width} pixels, more than {max_pixels:,}")
    try:
        (counts,) = encode(painted(value["rle"], height, width)[None])
    except ValueError as error:
        return replace(region, box=f"its brush strokes cannot be read: {error}")
    left, top, right, bottom = map(float, tight_boxes([counts], height, width)[0])
    if right == left:
        return replace(region, box="its brush painted nothing")

    def mask(rows: int, columns: int) -> bytes:
        if (rows, columns) != size:
            raise ValueError(f"its brush strokes are of {height} x {width} pixels")
        return counts

    box = (left / width, top / height, right / width, bottom / height)
    return replace(region, box=box, mask=mask)


def _box(value: Mapping[str, Any]) -> RawBox | str:
    """Percents of the sides as fractions; a rectangle that is turned has the box around it only if it is not."""
    values = numbers([value.get(side) for side in ("x", "y", "width", "height")])
    if values is None:
        return "has no box"
    if value.get("rotation") not in (None, 0, 0.0):
        return "is a turned rectangle, whose box is not known"
    left, top, width, height = values
    return left / 100, top / 100, (left + width) / 100, (top + height) / 100
