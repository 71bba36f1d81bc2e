"""Outlines of annotated objects: polygons as boxes, and as masks of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np

from weaksam_cli.core.masks import encode
from weaksam_cli.data.annotations import RawBox

Polygon = Sequence[float]
"""x, y, x, y, ... of at least three points, pixels."""
_LONGEST: Final = 1e7
"""Pixels along the outlines of an object: pycocotools keeps every fifth of a pixel, and crashes where it cannot."""


def numbers(texts: Sequence[Any]) -> list[float] | None:
    """The texts as numbers; None where one is none."""
    try:
        return [float(text) for text in texts]
    except (TypeError, ValueError):
        return None


def box_of_points(points: Polygon) -> RawBox:
    """The tight box of points x, y, x, y, ..."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _length(polygon: Polygon) -> float:
    """How far the points are apart, at least, all together."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    far = max(map(abs, polygon))
    return far + sum(max(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairs)


def polygon_mask(polygons: Sequence[Polygon]) -> Callable[[int, int], bytes]:
    """A `RawObject.mask`: the area that any of the polygons covers."""

    def mask(height: int, width: int) -> bytes:
        from pycocotools import mask as coco_mask

        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError("a polygon needs at least three points of two numbers")
            if not all(map(isfinite, polygon)):
                raise ValueError("a polygon has a coordinate that is no finite number")
        if sum(map(_length, polygons)) > _LONGEST:
            raise ValueError(f"an outline of more than {_LONGEST:,.0f} pixels")
        parts = coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width)
        return bytes(coco_mask.merge(parts)["counts"])

    return mask


def share_mask(polygon: Polygon) -> Callable[[int, int], bytes]:
    """As `polygon_mask`, of one polygon whose points are shares of the image's width and height."""

    def mask(height: int, width: int) -> bytes:
        scaled = [value * (height if place % 2 else width) for place, value in enumerate(polygon)]
        return polygon_mask([scaled])(height, width)

    return mask


def box_mask(left: int, top: int, runs: Sequence[int], size: tuple[int, int]) -> Callable[[int, int], bytes]:
    """As `polygon_mask`, of CVAT's run lengths in a box of a height and width: row by row, outside first."""

    def mask(height: int, width: int) -> bytes:
        if min(*runs, *size) < 0 or sum(runs) != size[0] * size[1]:
            raise ValueError("the run lengths do not cover its box")
        if left < 0 or top < 0 or top + size[0] > height or left + size[1] > width:
            raise ValueError("the mask stands out of the image")
        whole = np.zeros((1, height, width), np.bool_)
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size)
        whole[0, top : top + size[0], left : left + size[1]] = inside
        return encode(whole)[0]

    return mask
