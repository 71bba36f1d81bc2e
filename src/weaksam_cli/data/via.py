"""VGG Image Annotator: projects and exports of version 2 as JSON or CSV, projects of version 3."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import read_json, refusal
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, likely_folders, role_of
from weaksam_cli.data.outlines import box_of_points, numbers, polygon_mask
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "a json or csv with region_attributes (VIA)"
_WHOLE: Final = "trainval"
_USUAL: Final = (
    "label",
    "labels",
    "class",
    "classes",
    "name",
    "type",
    "category",
    "object",
    "object_name",
    "species",
)
_MARKS: Final = (b"_via_", b'"region_attributes"', b'"regions"', b"region_shape_attributes", b'"fid_list"')
_REMEDY: Final = "Give a project or an export of VIA"


class Recipe(ReadRecipe):
    """How VIA's files are read.

    Attributes:
        attribute: the attribute of a region that holds its class; null takes the only one there is, or one of a usual name.
        unnamed: the class of regions without attributes, where all objects are of one class.
    """

    method: Literal["via"] = "via"
    attribute: str | None = None
    unnamed: str | None = None


class Region(BaseModel):
    """A region of version 2."""

    shape: Annotated[dict[str, Any], Field(alias="shape_attributes")] = {}
    attributes: Annotated[dict[str, Any], Field(alias="region_attributes")] = {}


class Entry(BaseModel):
    """An image of version 2."""

    filename: str
    regions: list[Region] | dict[str, Region] = []


class Project(BaseModel):
    """A project of version 2."""

    entries: Annotated[dict[str, Entry], Field(alias="_via_img_metadata")]


class Media(BaseModel):
    """A file of version 3."""

    name: Annotated[str, Field(alias="fname")]


class View(BaseModel):
    """Which files are annotated together in version 3: one, where they are images."""

    files: Annotated[list[str | int], Field(alias="fid_list")]


class Attribute(BaseModel):
    """An attribute of version 3."""

    name: Annotated[str, Field(alias="aname")]
    options: dict[str, str] = {}


class Metadata(BaseModel):
    """A region of version 3: kind of shape and its coordinates, attribute values."""

    view: Annotated[str, Field(alias="vid")]
    shape: Annotated[list[float], Field(alias="xy")] = []
    values: Annotated[dict[str, str], Field(alias="av")] = {}


class Project3(BaseModel):
    """A project of version 3."""

    model_config = ConfigDict(extra="ignore")
    file: dict[str, Media]
    view: dict[str, View]
    metadata: dict[str, Metadata]
    attribute: dict[str, Attribute] = {}


_REGION: Final = TypeAdapter(Region)
_FILE: Final = TypeAdapter(Project | Project3 | dict[str, Entry])


@dataclass(frozen=True)
class Found:
    """A region in one form: its attributes and its outline.

    Attributes:
        attributes: name -> value: a text, or option -> whether it is ticked.
        shape: as version 2 writes it.
    """

    attributes: dict[str, Any]
    shape: dict[str, Any]


def likeness(source: Path) -> int:
    """3 where there is a file of VIA."""
    return 3 if via_files(source) else 0


def via_files(source: Path) -> dict[str, Path]:
    """Split -> file: `source` itself, the one in the folder, or one in each folder that is named as a split."""
    if source.is_file():
        return {_WHOLE: source} if _is_via(source) else {}
    if not source.is_dir():
        return {}
    own = [path for path in sorted(source.glob("*.*")) if _is_via(path)]
    if own:
        return {_WHOLE: own[0]} if len(own) == 1 else {path.stem: path for path in own}
    parts = [
        child for child in sorted(source.iterdir()) if child.name.casefold() in SPLIT_NAMES and child.is_dir()
    ]
    found = {child.name: [path for path in sorted(child.glob("*.*")) if _is_via(path)] for child in parts}
    return {name: paths[0] for name, paths in found.items() if paths}


def read(source: Path, recipe: Recipe, images: Path | None, *, boxes: bool) -> RawDataset:
    """What VIA's files say.

    Raises:
        UserError: there is none, it cannot be read, or it does not say which attribute is the class.
    """
    files = via_files(source)
    if not files:
        raise UserError("no file of VIA here", where=str(source), remedy=_REMEDY)

    def split(name: str) -> RawSplit:
        path = files[name]
        entries = dict(_entries(path))
        attribute = recipe.attribute or _class_attribute(entries.values(), path, recipe)
        found = [
            RawImage(file, tuple(_objects(regions, attribute, recipe, f"{path}: {file}", boxes)))
            for file, regions in entries.items()
        ]
        return RawSplit(name, path, found, likely_folders(path.parent, images))

    return RawDataset(source, tuple(files), {name: role_of(name) for name in files}, split)


def _is_via(path: Path) -> bool:
    return path.suffix.casefold() in (".json", ".csv") and any(mark in beginning(path) for mark in _MARKS)


def _entries(path: Path) -> Iterator[tuple[str, list[Found]]]:
    """Each image's file with its regions."""
    if path.suffix.casefold() == ".csv":
        yield from _csv_entries(path).items()
        return
    content = read_json(path, _FILE, remedy=_REMEDY)
    if isinstance(content, Project3):
        yield from _entries3(content)
        return
    for entry in (content.entries if isinstance(content, Project) else content).values():
        regions = entry.regions.values() if isinstance(entry.regions, dict) else entry.regions
        yield entry.filename, [Found(region.attributes, region.shape) for region in regions]


def _entries3(project: Project3) -> Iterator[tuple[str, list[Found]]]:
    regions: dict[str, list[Found]] = {view: [] for view in project.view}
    for item in project.metadata.values():
        named = {
            attribute.name: attribute.options.get(value, value)
            for key, value in item.values.items()
            if (attribute := project.attribute.get(key)) is not None
        }
        regions.setdefault(item.view, []).append(Found(named, _shape3(item.shape)))
    for key, view in project.view.items():
        media = project.file.get(str(view.files[0])) if len(view.files) == 1 else None
        if media is not None:
            yield media.name, regions[key]


def _shape3(values: list[float]) -> dict[str, Any]:
    """Version 3 writes a number for the kind, then its coordinates; as version 2 would say it."""
    kind = int(values[0]) if values else 0
    rest = values[1:]
    names = {
        2: ("rect", "x", "y", "width", "height"),
        3: ("circle", "cx", "cy", "r"),
        4: ("ellipse", "cx", "cy", "rx", "ry"),
    }
    if kind in names:
        return {"name": names[kind][0], **dict(zip(names[kind][1:], rest, strict=False))}
    if kind == 7:
        return {"name": "polygon", "all_points_x": rest[::2], "all_points_y": rest[1::2]}
    return {"name": "point"}


def _csv_entries(path: Path) -> dict[str, list[Found]]:
    found: dict[str, list[Found]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                regions = found.setdefault(row.get("filename") or row.get("#filename") or "", [])
                shape = json.loads(row.get("region_shape_attributes") or "{}")
                if shape:
                    attributes = json.loads(row.get("region_attributes") or "{}")
                    region = _REGION.validate_python(
                        {"shape_attributes": shape, "region_attributes": attributes}
                    )
                    regions.append(Found(region.attributes, region.shape))
    except ValidationError as error:
        raise refusal(error, path, _REMEDY) from None
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"the table cannot be read ({error})", where=str(path), remedy=_REMEDY) from None
    return found


def _class_attribute(entries: Iterable[list[Found]], path: Path, recipe: Recipe) -> str:
    names = Counter(name for regions in entries for region in regions for name in region.attributes)
    if len(names) == 1:
        return next(iter(names))
    usual = [name for name in names if name.casefold() in _USUAL]
    if len(usual) == 1:
        return usual[0]
    if not names:
        if recipe.unnamed:
            return ""
        raise UserError(
            "its regions have no attributes, so nothing says what they show",
            where=str(path),
            remedy="Where all are of one class, name it: --set unnamed=NAME",
        )
    raise UserError(
        f"its regions have the attributes {first_few(names, 20)}",
        where=str(path),
        remedy="Say which is the class: --set attribute=NAME",
    )


def _objects(
    regions: list[Found], attribute: str, recipe: Recipe, where: str, boxes: bool
) -> Iterator[RawObject]:
    for number, region in enumerate(regions, start=1):
        names = _names(region.attributes.get(attribute)) or ([recipe.unnamed] if recipe.unnamed else [])
        if not names:
            raise UserError(
                f"region {number} has no {attribute or 'class'}",
                where=where,
                remedy="Label it, or say what unlabelled ones are: --set unnamed=NAME",
            )
        title = f"region {number}"
        for name in names:
            yield _outlined(name, title, region.shape) if boxes else RawObject(name, title=title)


def _names(value: Any) -> list[str]:
    """A text is a class; of a checkbox, every option that is ticked."""
    if isinstance(value, dict):
        return [name.strip() for name, on in value.items() if on and name.strip()]
    text = str(value).strip() if isinstance(value, str | int) else ""
    return [text] if text else []


def _outlined(name: str, title: str, shape: dict[str, Any]) -> RawObject:
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        x, y = shape.get("all_points_x"), shape.get("all_points_y")
        points = _points(x, y)
        if points is None:
            return RawObject(name, title=title, box="its points are no polygon")
        return RawObject(name, title=title, box=box_of_points(points), mask=polygon_mask([points]))
    return RawObject(name, title=title, box=_box(str(kind), shape))


def _points(x: Any, y: Any) -> list[float] | None:
    if not (isinstance(x, list) and isinstance(y, list) and len(x) == len(y) >= 3):
        return None
    return numbers([value for pair in zip(x, y, strict=True) for value in pair])


def _box(kind: str, shape: dict[str, Any]) -> RawBox | str:
    sides = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }
    if kind not in sides:
        return f"a {kind[:20]} has no box"
    values = numbers([shape.get(side) for side in sides[kind]])
    if values is None:
        return "a coordinate is no number"
    a, b, c, d = values
    return (a, b, a + c, b + d) if kind == "rect" else (a - c, b - d, a + c, b + d)
