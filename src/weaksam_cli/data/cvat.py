"""CVAT's own export, "CVAT for images 1.1": one XML of all images, with boxes, polygons, masks and tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal
from xml.etree.ElementTree import Element

from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import ReadRecipe, likely_folders, role_of
from weaksam_cli.data.outlines import box_mask, box_of_points, numbers, polygon_mask
from weaksam_cli.data.xml_files import XmlError, parse_xml, root_tag
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "annotations.xml of CVAT for images"
_WHOLE: Final = "default"
_LONGEST_SIDE: Final = 1e6
"""Pixels; a larger side is none."""
_SIDES: Final = {
    "box": ("xtl", "ytl", "xbr", "ybr"),
    "mask": ("left", "top", "width", "height"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
_SHAPES: Final = ("box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "tag", "skeleton")


class Recipe(ReadRecipe):
    """How CVAT's XML is read."""

    method: Literal["cvat"] = "cvat"


def likeness(source: Path) -> int:
    """3 where there is CVAT's XML."""
    return 3 if cvat_file(source) is not None else 0


def cvat_file(source: Path) -> Path | None:
    """The XML that `source` means: itself, or the one in the folder."""
    candidates = [source] if source.is_file() else sorted(source.glob("*.xml")) if source.is_dir() else []
    if len(candidates) > 1:
        candidates = [path for path in candidates if path.name == "annotations.xml"]
    return next((path for path in candidates if root_tag(path) == "annotations"), None)


def read(source: Path, _recipe: Recipe, images: Path | None, *, boxes: bool) -> RawDataset:
    """What a CVAT export says; its subsets are the splits.

    Raises:
        UserError: there is none, it is no valid XML, or it is one of a video, whose frames are no files.
    """
    path = cvat_file(source)
    if path is None:
        raise UserError(
            "no annotations.xml of CVAT here", where=str(source), remedy="Export as 'CVAT for images 1.1'"
        )
    try:
        root = parse_xml(path)
    except XmlError as error:
        raise UserError(str(error), where=str(path), remedy="Export it again") from error
    found = root.findall("image")
    if not found:
        what = "the file is of a video" if root.find("track") is not None else "the file names no image"
        raise UserError(
            f"{what}, so there are no images to learn from",
            where=str(path),
            remedy="Export the task as 'CVAT for images 1.1' (or COCO 1.0) with the images saved",
        )
    splits: dict[str, list[RawImage]] = {}
    for element in found:
        name = (element.get("subset") or _WHOLE).lower()
        splits.setdefault(name, []).append(_image(element, path, boxes))

    def split(name: str) -> RawSplit:
        return RawSplit(name, path, splits[name], likely_folders(path.parent, images, name))

    return RawDataset(path, tuple(splits), {name: role_of(name) for name in splits}, split)


def _image(element: Element, path: Path, boxes: bool) -> RawImage:
    sides = numbers([element.get("height"), element.get("width")])
    declared = (
        (int(sides[0]), int(sides[1])) if sides and min(sides) >= 1 and max(sides) < _LONGEST_SIDE else None
    )
    objects = tuple(_objects(element, path, boxes))
    return RawImage(element.get("name") or "", objects, declared=declared)


def _objects(image: Element, path: Path, boxes: bool) -> Iterator[RawObject]:
    for number, shape in enumerate((child for child in image if child.tag in _SHAPES), start=1):
        name = (shape.get("label") or "").strip()
        if not name:
            what = f"{shape.tag} {number} of image {image.get('name')!r} has no label"
            raise UserError(what, where=str(path), remedy="Label it, or delete it")
        title = f"{shape.tag} {number}"
        yield _outlined(shape, name, title) if boxes else RawObject(name, title=title)


def _outlined(shape: Element, name: str, title: str) -> RawObject:
    """A shape with its box; what is tagged, or drawn as points, has none."""
    if shape.tag == "polygon":
        points = numbers((shape.get("points") or "").replace(";", ",").split(","))
        if points is None or len(points) < 6 or len(points) % 2:
            return RawObject(name, title=title, box="its points are no polygon")
        return RawObject(name, title=title, box=box_of_points(points), mask=polygon_mask([points]))
    if shape.tag not in _SIDES:
        return RawObject(name, title=title, box=f"a {shape.tag} has no box")
    values = numbers([shape.get(side) for side in _SIDES[shape.tag]])
    if values is None:
        return RawObject(name, title=title, box="a coordinate is no number")
    a, b, c, d = values
    boxes = {"box": (a, b, c, d), "mask": (a, b, a + c, b + d), "ellipse": (a - c, b - d, a + c, b + d)}
    return RawObject(name, title=title, box=boxes[shape.tag], mask=_run_lengths(shape, (d, c)))


def _run_lengths(shape: Element, size: tuple[float, float]) -> Callable[[int, int], bytes] | None:
    """The mask of a mask; None for other shapes, and for one without run lengths in a box of whole pixels."""
    if shape.tag != "mask":
        return None
    runs = numbers((shape.get("rle") or "").split(","))
    corner = numbers([shape.get("left"), shape.get("top")]) or []
    if runs is None or not all(value.is_integer() for value in (*runs, *corner, *size)):
        return None
    left, top = map(int, corner)
    return box_mask(left, top, list(map(int, runs)), (int(size[0]), int(size[1])))
