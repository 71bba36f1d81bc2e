"""A small vector brush: shapes in a thing's own coordinates, painted smooth, shaded and outlined on a scene.

Local coordinates: the origin is the middle of the thing's foot, x to the right, y upwards, one unit is its height. Light
falls from the upper left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, sin, tau
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Points = NDArray[np.float32]
Outline = NDArray[np.floating[Any]] | str | Sequence[tuple[float, float]]
"""Points of a shape: an array (n, 2), pairs, or the text `x,y x,y ...`."""

SCALE: Final = 2
"""Scenes are painted at this many times their final size."""
INK: Final[Colour] = (34, 30, 44)
WHITE: Final[Colour] = (255, 255, 255)
_FRACTION_BITS: Final = 4


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` of `b` in it."""
    red, green, blue = (x + (y - x) * share for x, y in zip(a, b, strict=True))
    return red, green, blue


def pick(rng: np.random.Generator, colours: str) -> Colour:
    """One of `colours` (`r,g,b r,g,b ...`), slightly off."""
    known = path(colours)
    red, green, blue = np.clip(known[rng.integers(len(known))] + rng.normal(0, 5, 3), 0, 255)
    return float(red), float(green), float(blue)


def lighter(colour: Colour, share: float) -> Colour:
    """Towards a warm white."""
    return mix(colour, (255, 252, 240), share)


def darker(colour: Colour, share: float) -> Colour:
    """Towards a cool near-black, as shadows outdoors are."""
    return mix(colour, (26, 20, 48), share)


def path(*parts: Outline) -> Points:
    """The points of all parts in order, float32 (n, 2)."""
    pairs = ([pair.split(",") for pair in part.split()] if isinstance(part, str) else part for part in parts)
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in pairs])


def ellipse(
    x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, span: tuple[float, float] = (0.0, tau)
) -> Points:
    """Points along an ellipse around (x, y), turned by `turn` radians, over the angles of `span`."""
    angle = np.linspace(*span, 33)
    dx, dy = rx * np.cos(angle), ry * np.sin(angle)
    return path(np.stack([x + dx * cos(turn) - dy * sin(turn), y + dx * sin(turn) + dy * cos(turn)], axis=1))


def ring(count: int, x: float, y: float, radius: float, start: float = 0.0) -> Points:
    """`count` points evenly on a circle, the first at the angle `start`."""
    angle = start + np.arange(count) * (tau / count)
    return path(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1))


def rectangle(left: float, bottom: float, right: float, top: float, radius: float = 0.0) -> Points:
    """Outline of a rectangle with rounded corners."""
    x, y = (right - radius, left + radius), (top - radius, bottom + radius)
    corners = enumerate(((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])))
    return path(*(ellipse(*at, radius, radius, span=(k * tau / 4, (k + 1) * tau / 4)) for k, at in corners))


def curve(points: Outline, *, closed: bool = False) -> Points:
    """A smooth line through all points (Catmull-Rom)."""
    known = path(points)
    around = path(*((known[-1:], known, known[:2]) if closed else (known[:1], known, known[-1:])))
    a, b, c, d = (around[start : len(around) - 3 + start, None] for start in range(4))
    t = np.linspace(0, 1, 10, endpoint=False, dtype=np.float32)[:, None]
    smooth = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return path(smooth.reshape(-1, 2), known[:1] if closed else known[-1:])


@dataclass(frozen=True)
class Canvas:
    """A scene in the making, `SCALE` times as large as the image will be.

    Attributes:
        pixels: uint8 (h, w, 3), RGB.
        owner: uint8 (h, w), number of the object that is seen at a pixel; 0 for what is none.
    """

    pixels: NDArray[np.uint8]
    owner: NDArray[np.uint8]


@dataclass(frozen=True)
class Brush:
    """Paints one thing.

    Attributes:
        canvas: where.
        owner: the number that its pixels get; None leaves them to whom they belong (shadows).
        x, y: column and row of its foot, final pixels.
        height: final pixels.
        angle: radians, counter-clockwise, around its middle.
        flip: mirror it left to right.
        air: colour of the air between, and its share: far things take it on.
    """

    canvas: Canvas
    owner: int | None
    x: float
    y: float
    height: float
    angle: float = 0.0
    flip: bool = False
    air: tuple[Colour, float] = (WHITE, 0.0)

    def shape(
        self,
        points: Outline,
        colour: Colour,
        *,
        shade: float = 0.3,
        outline: bool = True,
        opacity: float = 1.0,
    ) -> None:
        """A filled outline, lighter to the upper left by `shade`, with a darker contour."""
        placed = self._place(points)
        low, high = placed.min(axis=0), placed.max(axis=0)
        size = self.canvas.owner.shape[1::-1]
        left, top = np.clip(np.floor(low), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(high) + 1, 0, size).astype(int)
        if left >= right or top >= bottom:
            return
        window = slice(top, bottom), slice(left, right)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [_fixed(placed - (left, top))], 255, cv2.LINE_AA, _FRACTION_BITS)
        across = (np.arange(left, right) - low[0]) / max(high[0] - low[0], 1)
        down = (np.arange(top, bottom) - low[1]) / max(high[1] - low[1], 1)
        dimness = (0.62 * down[:, None] + 0.38 * across[None, :])[..., None]
        bright = np.asarray(self._seen(lighter(colour, shade)))
        dim = np.asarray(self._seen(darker(colour, 0.8 * shade)))
        under = self.canvas.pixels[window]
        share = mask[..., None] * (opacity / 255)
        under[:] = np.rint(under + (bright + (dim - bright) * dimness - under) * share)
        if self.owner is not None:
            self.canvas.owner[window][mask >= 128] = self.owner
        if outline:
            self._line(placed, darker(colour, 0.55), max(1.1 * SCALE, 0.014 * self._unit))

    def stroke(self, points: Outline, colour: Colour, width: float) -> None:
        """A line of `width` local units with round ends; a single point gives a dot."""
        placed = self._place(points)
        self._line(placed, colour, max(width * self._unit, 0.9 * SCALE))

    def tube(self, points: Outline, colour: Colour, width: float) -> None:
        """A thick line with a contour and a lighter core, as of a pipe or a cord."""
        placed = self._place(points)
        thick = max(width * self._unit, 2.4 * SCALE)
        self._line(placed, darker(colour, 0.55), thick + max(1.5 * SCALE, 0.02 * self._unit))
        self._line(placed, darker(colour, 0.1), thick)
        self._line(placed - 0.14 * thick, lighter(colour, 0.3), 0.4 * thick)

    @property
    def _unit(self) -> float:
        return self.height * SCALE

    def _place(self, points: Outline) -> NDArray[np.float64]:
        x, y = (path(points) * (-1 if self.flip else 1, 1) - (0, 0.5)).T * self._unit
        right, up = x * cos(self.angle) - y * sin(self.angle), x * sin(self.angle) + y * cos(self.angle)
        return np.stack([self.x * SCALE + right, (self.y - 0.5 * self.height) * SCALE - up], axis=1)

    def _seen(self, colour: Colour) -> Colour:
        return mix(colour, *self.air)

    def _line(self, placed: NDArray[np.float64], colour: Colour, width: float) -> None:
        line = [_fixed(placed if len(placed) > 1 else np.repeat(placed, 2, axis=0))]
        thick = max(1, round(width))
        cv2.polylines(self.canvas.pixels, line, False, self._seen(colour), thick, cv2.LINE_AA, _FRACTION_BITS)
        if self.owner is not None:
            cv2.polylines(self.canvas.owner, line, False, self.owner, thick, cv2.LINE_8, _FRACTION_BITS)


def _fixed(placed: NDArray[np.float64]) -> NDArray[np.int32]:
    """Coordinates of pixel edges as OpenCV takes them: fixed point, pixel centres at whole numbers."""
    return np.rint((placed - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
