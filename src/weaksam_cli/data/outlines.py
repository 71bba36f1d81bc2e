"""Outlines of annotated objects: polygons as boxes, and as masks of an image."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
        _require_inside(left, top, size, (height, width))
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size)
        return _placed(inside, left, top, (height, width))

    return mask


def png_mask(left: int, top: int, size: tuple[int, int], text: str) -> Callable[[int, int], bytes]:
    """As `polygon_mask`, of LabelMe's mask: a PNG, in base64, of one channel and of the height and width of its box."""

    def mask(height: int, width: int) -> bytes:
        _require_inside(left, top, size, (height, width))
        return _placed(_png(text, size), left, top, (height, width))

    return mask


def _png(text: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where a PNG in base64 is not 0; nothing of it is decoded unless it has that height and width."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = BytesIO(base64.b64decode(text, validate=True))
            with Image.open(data, formats=["PNG"]) as image:
                found, channels = (image.height, image.width), len(image.getbands())
                pixels = np.asarray(image) if (found, channels) == (size, 1) else None
    except Exception as error:  # the decoder raises errors of any type for damaged bytes
        raise ValueError("its mask is no PNG in base64, or a damaged one") from error
    if pixels is None:
        what = f"{found[0]} x {found[1]} pixels of {channels} channels"
        raise ValueError(f"its mask has {what}, expected {size[0]} x {size[1]} of one, as its points say")
    return pixels > 0


def _require_inside(left: int, top: int, size: tuple[int, int], image: tuple[int, int]) -> None:
    if left < 0 or top < 0 or top + size[0] > image[0] or left + size[1] > image[1]:
        raise ValueError("the mask stands out of the image")


def _placed(inside: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> bytes:
    """Compressed RLE, in an image of a height and width, of pixels (h, w) whose corner stands at left, top."""
    whole = np.zeros((1, *size), np.bool_)
    whole[0, top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return encode(whole)[0]
