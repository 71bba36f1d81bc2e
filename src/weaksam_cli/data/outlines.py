"""Outlines of annotated objects: polygons as boxes, and as masks of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from weaksam_cli.data.annotations import RawBox

Polygon = Sequence[float]
"""x, y, x, y, ... of at least three points, pixels."""


def numbers(texts: Sequence[Any]) -> list[float] | None:
    """The texts as numbers; None where one is none."""
    try:
        return [float(text) for text in texts]
    except (TypeError, ValueError):
        return None


def box_of_points(points: Polygon) -> RawBox:
    """The tight box of points x, y, x, y, ..."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def polygon_mask(polygons: Sequence[Polygon]) -> Callable[[int, int], bytes]:
    """A `RawObject.mask`: the area that any of the polygons covers."""

    def mask(height: int, width: int) -> bytes:
        from pycocotools import mask as coco_mask

        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon needs at least three points of two numbers")
            if not all(abs(number) < 1e9 for number in polygon):
                raise ValueError("a polygon has a coordinate that is no finite number")
        parts = coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width)
        return bytes(coco_mask.merge(parts)["counts"])

    return mask
