"""Things that belong to no class: they share colours and plain shapes with the objects, and hide parts of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from weaksam_cli.data.demo.canvas import WHITE, Canvas, Point, curve, darker, ellipse, lighter, mix, rectangle
from weaksam_cli.data.demo.things import PLAIN, pick

_GREENS: Final = ((84, 136, 72), (112, 148, 74), (66, 118, 86), (136, 148, 80))


@dataclass(frozen=True)
class Clutter:
    """How to paint one kind: half width in units of its height, and the brush work."""

    half_width: float
    draw: Callable[[Canvas, np.random.Generator], None]


def _rock(canvas: Canvas, rng: np.random.Generator) -> None:
    stone = pick(rng, ((140, 136, 134), (124, 118, 124), (156, 144, 128)))
    points: list[Point] = []
    for index in range(9):
        angle = math.pi * index / 8
        stretch = float(rng.uniform(0.82, 1.05))
        points.append((0.8 * stretch * math.cos(angle), 0.95 * stretch * math.sin(angle)))
    canvas.shape([*points, (-0.7, 0.0), (0.7, 0.0)], stone, shade=0.35)
    canvas.stroke([points[3], (points[3][0] * 0.6, points[3][1] * 0.5)], darker(stone, 0.3), 0.02)
    canvas.stroke([points[5], (points[5][0] * 0.5, points[5][1] * 0.6)], darker(stone, 0.25), 0.02)


def _bush(canvas: Canvas, rng: np.random.Generator) -> None:
    green = pick(rng, _GREENS)
    canvas.shape(ellipse(0, 0.34, 0.78, 0.33), darker(green, 0.3))
    for depth, count, spread, base in ((0.22, 7, 0.7, 0.3), (0.08, 6, 0.56, 0.46), (-0.1, 5, 0.42, 0.58)):
        for index in range(count):
            x = spread * (2 * index / (count - 1) - 1) + float(rng.normal(0, 0.04))
            y = base * (0.75 + 0.25 * math.cos(x * 2)) + float(rng.normal(0, 0.03))
            r = float(rng.uniform(0.19, 0.25))
            tone = darker(green, depth) if depth > 0 else lighter(green, -depth)
            canvas.shape(ellipse(x, max(y, r), r, r, steps=20), tone, shade=0.22, outline=depth > 0.2)
    for _ in range(46):
        angle, reach = float(rng.uniform(0, math.pi)), float(rng.uniform(0.1, 0.9))
        x, y = 0.72 * reach * math.cos(angle), 0.14 + 0.62 * reach * math.sin(angle)
        tone = lighter(green, 0.3) if rng.random() < 0.5 else darker(green, 0.3)
        canvas.stroke([(x, y), (x + 0.03, y + 0.02)], tone, 0.03)


def _tree(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.shape([(-0.05, 0), (0.05, 0), (0.03, 0.5), (-0.03, 0.5)], (124, 88, 62))
    green = pick(rng, _GREENS)
    if rng.random() < 0.5:
        for low, high, half in ((0.16, 0.56, 0.3), (0.38, 0.78, 0.24), (0.6, 1.0, 0.17)):
            canvas.shape([(-half, low), (0, high), (half, low)], green, shade=0.28)
        return
    for _ in range(11):
        x, y, r = float(rng.normal(0, 0.12)), float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.12, 0.16))
        canvas.shape(ellipse(x, y, r, r), mix(green, WHITE, float(rng.uniform(0, 0.16))), shade=0.25)


def _crate(canvas: Canvas, rng: np.random.Generator) -> None:
    wood = pick(rng, PLAIN)
    canvas.shape(rectangle(-0.5, 0, 0.5, 0.96), darker(wood, 0.12))
    for y in (0.33, 0.63):
        canvas.stroke([(-0.46, y), (0.46, y)], darker(wood, 0.4), 0.02)
    canvas.shape([(-0.44, 0.06), (-0.3, 0.06), (0.44, 0.9), (0.3, 0.9)], lighter(wood, 0.1), shade=0.12)
    for box in ((-0.5, 0, 0.5, 0.12), (-0.5, 0.84, 0.5, 0.96), (-0.5, 0, -0.38, 0.96), (0.38, 0, 0.5, 0.96)):
        canvas.shape(rectangle(*box), wood, shade=0.15)


def _ball(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = pick(rng, PLAIN)
    canvas.shape(ellipse(0, 0.49, 0.48, 0.48), colour, shade=0.4)
    other = pick(rng, PLAIN)
    band = [
        *curve([(-0.44, 0.66), (0, 0.56), (0.44, 0.66)]),
        *curve([(0.47, 0.42), (0, 0.32), (-0.47, 0.42)]),
    ]
    canvas.shape(band, other, shade=0.3)
    canvas.gloss(ellipse(-0.17, 0.74, 0.12, 0.07, turn=0.6), 0.7)


def _barrel(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = pick(rng, PLAIN)
    left = curve([(-0.27, 0.0), (-0.34, 0.5), (-0.27, 0.96)])
    canvas.shape([*left, *[(-x, y) for x, y in reversed(left)]], colour, shade=0.38)
    for y, half in ((0.2, 0.31), (0.74, 0.32)):
        canvas.shape(rectangle(-half, y, half, y + 0.07), (104, 102, 108), shade=0.3)
    canvas.shape(ellipse(0, 0.95, 0.27, 0.05), darker(colour, 0.35), shade=0.1)


def _fence(canvas: Canvas, rng: np.random.Generator) -> None:
    paint = mix(pick(rng, PLAIN), (240, 236, 226), 0.7)
    for y in (0.25, 0.62):
        canvas.shape(rectangle(-1.5, y, 1.5, y + 0.11), darker(paint, 0.1), shade=0.15)
    for index in range(7):
        x = -1.35 + index * 0.45
        canvas.shape(
            [(x - 0.1, 0), (x + 0.1, 0), (x + 0.1, 0.84), (x, 0.99), (x - 0.1, 0.84)], paint, shade=0.2
        )


def _weed(canvas: Canvas, rng: np.random.Generator) -> None:
    green = pick(rng, ((66, 130, 96), (104, 140, 74), (142, 96, 104)))
    for index in range(5):
        x = (index - 2) * 0.09
        sway = float(rng.uniform(0.05, 0.12)) * (-1) ** index
        top = float(rng.uniform(0.65, 1.0))
        canvas.tube(
            curve([(x, 0), (x + sway, top * 0.3), (x - sway, top * 0.65), (x + sway, top)]), green, 0.045
        )


def _coral(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = pick(rng, ((222, 118, 108), (226, 160, 96), (176, 112, 150), (206, 196, 150)))
    for index in range(6):
        angle = math.pi * (0.2 + 0.6 * index / 5)
        reach = float(rng.uniform(0.65, 0.92))
        middle = (0.3 * math.cos(angle), 0.5 * reach * math.sin(angle))
        canvas.tube(
            curve([(0, 0.03), middle, (0.7 * reach * math.cos(angle), reach * math.sin(angle))]), colour, 0.06
        )
        for side in (-1, 1):
            turn = angle + side * float(rng.uniform(0.3, 0.6))
            tip = (middle[0] * 1.3 + 0.24 * math.cos(turn), middle[1] * 1.3 + 0.24 * math.sin(turn))
            canvas.tube([(middle[0] * 1.3, middle[1] * 1.3), tip], lighter(colour, 0.12), 0.045)


def _buoy(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = pick(rng, PLAIN)
    canvas.shape([(-0.14, 0.25), (0.14, 0.25), (0.05, 0.86), (-0.05, 0.86)], colour)
    canvas.shape(rectangle(-0.34, 0.02, 0.34, 0.27, 0.1), darker(colour, 0.15), shade=0.35)
    canvas.shape(ellipse(0, 0.91, 0.075, 0.075), lighter(colour, 0.5))


CLUTTER: Final[Mapping[str, Clutter]] = {
    "rock": Clutter(0.9, _rock),
    "bush": Clutter(1.0, _bush),
    "tree": Clutter(0.4, _tree),
    "crate": Clutter(0.52, _crate),
    "ball": Clutter(0.5, _ball),
    "barrel": Clutter(0.36, _barrel),
    "fence": Clutter(1.52, _fence),
    "weed": Clutter(0.36, _weed),
    "coral": Clutter(0.8, _coral),
    "buoy": Clutter(0.36, _buoy),
}
