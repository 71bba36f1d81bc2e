"""COCO's `bbox` and `segmentation`: polygons, or run lengths in either form."""

from __future__ import annotations

from typing import Any

from weaksam_cli.core.json_files import shown
from weaksam_cli.core.masks import tight_boxes
from weaksam_cli.data.annotations import RawBox
from weaksam_cli.data.outlines import Polygon, box_of_points, numbers, polygon_mask

_MOST_PIXELS = 10**9
"""Of a mask whose image is not known yet."""


def box_of(bbox: Any, segmentation: Any) -> RawBox | str:
    """(left, top, width, height) as edges; the box around the segmentation where there is none; else why not."""
    values = numbers(bbox) if isinstance(bbox, list) else None
    if (not bbox or not any(values or (1,))) and segmentation:
        try:
            return _around(segmentation)
        except ValueError as error:
            return f"has no bbox, and the box around its segmentation is not known: {error}"
    if values is None or len(values) != 4:
        return f"expected a bbox of four numbers, got {str(bbox)[:60] if isinstance(bbox, list) else shown(bbox)}"
    left, top, width, height = values
    return left, top, left + width, top + height


def segmentation_mask(segmentation: Any, height: int, width: int) -> bytes:
    """Compressed RLE (`counts`) that covers exactly the image.

    Raises:
        ValueError: why it cannot be used.
    """
    if isinstance(segmentation, list):
        return polygon_mask(_polygons(segmentation))(height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError("expected polygons or run lengths as segmentation")
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"run lengths of size {segmentation.get('size')}, the image has {[height, width]}")
    return _run_lengths(segmentation["counts"], height, width)


def _around(segmentation: Any) -> RawBox:
    if isinstance(segmentation, list):
        return box_of_points([number for polygon in _polygons(segmentation) for number in polygon])
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        raise ValueError("expected polygons or run lengths as segmentation")
    height, width = size
    if min(size) < 1 or height * width > _MOST_PIXELS:
        raise ValueError(f"run lengths of size {size}")
    left, top, right, bottom = tight_boxes([segmentation_mask(segmentation, height, width)], height, width)[0]
    return float(left), float(top), float(right), float(bottom)


def _polygons(segmentation: list[Any]) -> list[Polygon]:
    """Its polygons: a list of lists of x, y, x, y, ...; some tools write one such list alone, or a list of pairs."""
    if not any(isinstance(item, list) for item in segmentation):
        segmentation = [segmentation]
    elif all(isinstance(item, list) and len(item) == 2 for item in segmentation):
        segmentation = [[number for pair in segmentation for number in pair]]
    polygons = [numbers(item) if isinstance(item, list) else None for item in segmentation]
    known = [item for item in polygons if item is not None]
    if len(known) < len(polygons):
        raise ValueError("a polygon has a coordinate that is no finite number")
    areas = [item for item in known if len(item) >= 6 and len(item) % 2 == 0]
    if not areas:
        raise ValueError("a polygon needs at least three points of two numbers")
    return list(areas)


def _run_lengths(counts: Any, height: int, width: int) -> bytes:
    """Compressed run lengths that are known to cover exactly the image; the C decoder trusts its input."""
    from pycocotools import mask as coco_mask

    runs = _decompress(counts) if isinstance(counts, str) else counts
    fits = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
    if not fits or sum(runs) != height * width:
        raise ValueError("the run lengths do not cover the image")
    return bytes(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"])


def _decompress(text: str) -> list[int]:
    """COCO's compressed string to run lengths: 5 bits per character, from the third on as differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the compressed run lengths are damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the compressed run lengths are cut short")
    return runs
