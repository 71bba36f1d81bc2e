"""A small vector brush: shapes in an object's own coordinates, painted smooth, shaded and outlined.

Local coordinates: the origin is the middle of the object's foot, x to the right, y upwards, one unit is the object's
height. Light falls from the upper left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLE: Final = 3
WHITE: Final[Colour] = (255, 255, 255)
INK: Final[Colour] = (34, 30, 44)
_MARGIN: Final = 0.22
_LIGHT: Final = 64


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` of `b` in it."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def lighter(colour: Colour, share: float) -> Colour:
    """Towards a warm white."""
    return mix(colour, (255, 252, 240), share)


def darker(colour: Colour, share: float) -> Colour:
    """Towards a cool near-black, as shadows outdoors are."""
    return mix(colour, (26, 20, 48), share)


def ellipse(x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, steps: int = 40) -> list[Point]:
    """Outline of an ellipse around (x, y), turned by `turn` radians."""
    return arc(x, y, rx, ry, (0.0, 2 * math.pi), turn=turn, steps=steps)


def arc(
    x: float, y: float, rx: float, ry: float, span: tuple[float, float], *, turn: float = 0.0, steps: int = 24
) -> list[Point]:
    """Points along an elliptic arc over `span` (from and to, radians, counter-clockwise)."""
    start, end = span
    cos, sin = math.cos(turn), math.sin(turn)
    points: list[Point] = []
    for step in range(steps + 1):
        angle = start + (end - start) * step / steps
        dx, dy = rx * math.cos(angle), ry * math.sin(angle)
        points.append((x + dx * cos - dy * sin, y + dx * sin + dy * cos))
    return points


def rectangle(left: float, bottom: float, right: float, top: float, radius: float = 0.0) -> list[Point]:
    """Outline of a rectangle with rounded corners."""
    if radius <= 0:
        return [(left, bottom), (right, bottom), (right, top), (left, top)]
    r = min(radius, (right - left) / 2, (top - bottom) / 2)
    quarter = math.pi / 2
    return [
        *arc(right - r, top - r, r, r, (0, quarter), steps=6),
        *arc(left + r, top - r, r, r, (quarter, 2 * quarter), steps=6),
        *arc(left + r, bottom + r, r, r, (2 * quarter, 3 * quarter), steps=6),
        *arc(right - r, bottom + r, r, r, (3 * quarter, 4 * quarter), steps=6),
    ]


def curve(points: Sequence[Point], *, closed: bool = False, steps: int = 10) -> list[Point]:
    """A smooth line through all `points` (Catmull-Rom)."""
    count = len(points)
    smooth: list[Point] = []
    for index in range(count if closed else count - 1):
        around = [index - 1, index, index + 1, index + 2]
        a, b, c, d = (points[i % count] if closed else points[min(max(i, 0), count - 1)] for i in around)
        for step in range(steps):
            t = step / steps
            smooth.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return smooth if closed else [*smooth, points[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


@dataclass(frozen=True)
class Sprite:
    """A painted thing.

    Attributes:
        pixels: uint8 (h, w, 4), RGB and alpha, not premultiplied.
        foot: column and row of the local origin in it.
    """

    pixels: NDArray[np.uint8]
    foot: tuple[float, float]


class Canvas:
    """One object's painting ground.

    Args:
        height: of the object in final pixels.
        half_width: how far it reaches to either side, in its own units.
        angle: radians, counter-clockwise, around its middle.
        flip: mirror it left to right.
    """

    def __init__(self, height: float, half_width: float, *, angle: float = 0.0, flip: bool = False) -> None:
        self.unit = height * SUPERSAMPLE
        self.angle = angle
        self.flip = flip
        reach = math.hypot(half_width, 0.5) if abs(angle) > 0.01 else 0.0
        half_w, half_h = max(half_width, reach) + _MARGIN, max(0.5, reach) + _MARGIN
        columns = math.ceil(2 * half_w * height) * SUPERSAMPLE
        rows = math.ceil(2 * half_h * height) * SUPERSAMPLE
        self.layer = Image.new("RGBA", (columns, rows), (0, 0, 0, 0))
        self.line = max(1.1 * SUPERSAMPLE, 0.014 * self.unit)

    def shape(
        self,
        points: Sequence[Point],
        colour: Colour,
        *,
        shade: float = 0.3,
        outline: bool = True,
        opacity: float = 1.0,
    ) -> None:
        """A filled outline, lighter to the upper left by `shade`, with a darker contour."""
        placed = [self._place(point) for point in points]
        box, mask = self._mask(placed)
        if mask is None:
            return
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
        light = _light().resize(mask.size, Image.Resampling.BILINEAR)
        bright = Image.new("RGBA", mask.size, (*lighter(colour, shade), 255))
        dim = Image.new("RGBA", mask.size, (*darker(colour, shade * 0.8), 255))
        fill = Image.composite(bright, dim, light)
        if opacity < 1:
            under = self.layer.crop((*box, box[0] + mask.size[0], box[1] + mask.size[1]))
            fill.putalpha(mask)
            self.layer.paste(Image.alpha_composite(under, fill), box)
        else:
            self.layer.paste(fill, box, mask)
        if outline:
            self._stroke([*placed, placed[0]], darker(colour, 0.55), self.line)

    def stroke(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line of `width` local units with round ends."""
        self._stroke(
            [self._place(point) for point in points], colour, max(width * self.unit, 0.9 * SUPERSAMPLE)
        )

    def tube(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A thick line with a contour and a lighter core, as of a pipe or a cord."""
        placed = [self._place(point) for point in points]
        thick = max(width * self.unit, 2.4 * SUPERSAMPLE)
        self._stroke(placed, darker(colour, 0.55), thick + 1.4 * self.line)
        self._stroke(placed, darker(colour, 0.1), thick)
        offset = thick * 0.14
        self._stroke([(x - offset, y - offset) for x, y in placed], lighter(colour, 0.3), thick * 0.4)

    def gloss(self, points: Sequence[Point], strength: float = 0.5) -> None:
        """A soft white reflection, only where something is painted."""
        placed = [self._place(point) for point in points]
        box, mask = self._mask(placed, grow=round(0.02 * self.unit) + 2)
        if mask is None:
            return
        soft = mask.filter(ImageFilter.GaussianBlur(0.012 * self.unit)).point(
            [round(v * strength) for v in range(256)]
        )
        area = (*box, box[0] + mask.size[0], box[1] + mask.size[1])
        under = self.layer.crop(area)
        white = Image.new("RGBA", mask.size, (255, 255, 255, 255))
        mixed = Image.composite(white, under, soft)
        mixed.putalpha(under.getchannel("A"))
        self.layer.paste(mixed, box)

    def sprite(self) -> Sprite:
        """What was painted, at its final size, cut to its extent."""
        size = (self.layer.size[0] // SUPERSAMPLE, self.layer.size[1] // SUPERSAMPLE)
        small = self.layer.resize(size, Image.Resampling.BOX)
        x, y = self._place((0.0, 0.0))
        left, top, right, bottom = small.getchannel("A").getbbox() or (0, 0, 1, 1)
        pixels = np.asarray(small.crop((left, top, right, bottom)), dtype=np.uint8)
        return Sprite(pixels, (x / SUPERSAMPLE - left, y / SUPERSAMPLE - top))

    def _place(self, point: Point) -> Point:
        x, y = (-point[0] if self.flip else point[0]), point[1] - 0.5
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned_x, turned_y = x * cos - y * sin, x * sin + y * cos
        return self.layer.size[0] / 2 + turned_x * self.unit, self.layer.size[1] / 2 - turned_y * self.unit

    def _mask(self, placed: Sequence[Point], grow: int = 0) -> tuple[tuple[int, int], Image.Image | None]:
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        left, top = max(math.floor(min(xs)) - grow, 0), max(math.floor(min(ys)) - grow, 0)
        right = min(math.ceil(max(xs)) + 1 + grow, self.layer.size[0])
        bottom = min(math.ceil(max(ys)) + 1 + grow, self.layer.size[1])
        if right <= left or bottom <= top:
            return (left, top), None
        mask = Image.new("L", (right - left, bottom - top), 0)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in placed], fill=255)
        return (left, top), mask

    def _stroke(self, placed: Sequence[Point], colour: Colour, width: float) -> None:
        draw = ImageDraw.Draw(self.layer)
        draw.line(list(placed), fill=(*colour, 255), width=max(1, round(width)), joint="curve")
        radius = width / 2
        for x, y in (placed[0], placed[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*colour, 255))


@cache
def _light() -> Image.Image:
    """How lit a surface is over its extent: brightest at the upper left."""
    ramp = np.linspace(1.0, 0.0, _LIGHT)
    lit = 0.62 * ramp[:, None] + 0.38 * ramp[None, :]
    return Image.fromarray(np.rint(255 * lit).astype(np.uint8))
