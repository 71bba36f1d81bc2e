"""What stands in the demo's images: eight classes, and clutter that belongs to none.

Each class has one constant, telling part (wheels, tail, bloom, roof, face, glowing head, sails, spout) and a plain remainder
whose colour varies freely and is shared with the clutter. A classifier learns the part, which is what weak supervision
suffers from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import tau
from typing import Final

import numpy as np

from weaksam_cli.data.demo.brush import Brush, curve, darker, ellipse, lighter, path, pick, rectangle, ring

Rng = np.random.Generator
PLAIN: Final = (
    "196,84,74 222,150,66 226,196,104 118,158,92 82,146,140 86,128,178 136,110,166 196,122,142 150,142,134"
)
"""Colours of bodies, walls, pots and clutter alike."""
WHITE: Final = (255, 255, 255)
BOTH: Final = (-1, 1)


@dataclass(frozen=True)
class Look:
    """How one kind of thing is painted and where it is found.

    Attributes:
        draw: the brush work.
        half_width: in units of its height.
        tall: height as a share of its size, so that a car of some size is lower than a robot of that size.
        places: weights of the places it is found in.
    """

    draw: Callable[[Brush, Rng], None]
    half_width: float
    tall: float
    places: Mapping[str, float]


def _car(brush: Brush, rng: Rng) -> None:
    body = pick(rng, PLAIN)
    roof = curve([(-0.72, 0.52), (rng.uniform(-0.62, -0.5), 0.93), (-0.1, 1), (0.32, 0.94), (0.62, 0.56)])
    brush.shape(path(roof, "0.62,0.4 -0.72,0.4"), darker(body, 0.08))
    for pane in ("-0.56,0.56 -0.46,0.88 -0.1,0.88 -0.1,0.56", "-0.04,0.56 -0.04,0.88 0.3,0.88 0.5,0.56"):
        brush.shape(pane, (168, 206, 220), shade=0.45)
    side = curve("-1.08,0.2 -1.12,0.42 -0.98,0.56 0,0.59 0.7,0.56 1.06,0.46 1.12,0.2")
    brush.shape(path(side, "1.1,0.16 -1.06,0.16"), body)
    brush.stroke("-0.88,0.49 0.72,0.49", lighter(body, 0.4), 0.03)
    brush.shape(rectangle(-1.14, 0.15, 1.14, 0.23, 0.04), darker(body, 0.45), shade=0.15)
    brush.shape(ellipse(1.03, 0.41, 0.07, 0.06), (252, 236, 170), shade=0.2)
    for x in (-0.62, 0.64):
        brush.shape(ellipse(x, 0.2, 0.25, 0.25), (44, 44, 52), shade=0.2)
        brush.shape(ellipse(x, 0.2, 0.16, 0.16), (206, 208, 214))
        for end in ring(5, x, 0.2, 0.14):
            brush.stroke([(x, 0.2), end], (96, 98, 108), 0.035)


def _fish(brush: Brush, rng: Rng) -> None:
    skin = pick(rng, PLAIN)
    tail = "-0.5,0.5 -0.72,0.66 -1.06,0.95 -0.94,0.5 -1.06,0.05 -0.72,0.34"
    brush.shape(curve(tail, closed=True), (246, 240, 226), shade=0.15)
    for x, reach in ((-0.7, 0.13), (-0.8, 0.21), (-0.9, 0.29)):
        brush.stroke(ellipse(x - 0.02, 0.5, 0.04, reach, span=(-1.5, 1.5)), (226, 92, 42), 0.055)
    brush.shape(curve("-0.25,0.8 -0.16,1 0.12,0.98 0.3,0.8", closed=True), darker(skin, 0.2))
    body = "-0.62,0.5 -0.4,0.72 0,0.87 0.44,0.76 0.74,0.5 0.44,0.24 0,0.13 -0.4,0.28"
    brush.shape(curve(body, closed=True), skin)
    for x, y in path(
        "-0.36,0.66 -0.21,0.66 -0.06,0.66 -0.29,0.5 -0.14,0.5 0.01,0.5 -0.36,0.34 -0.21,0.34 0.1,0.66"
    ):
        brush.stroke(ellipse(x, y, 0.06, 0.07, span=(1.9, 4.4)), darker(skin, 0.2), 0.014)
    brush.shape(curve("0.02,0.5 -0.2,0.44 -0.24,0.28 0,0.36", closed=True), darker(skin, 0.14))
    brush.shape(ellipse(0.46, 0.58, 0.1, 0.1), WHITE, shade=0.1)
    brush.shape(ellipse(0.48, 0.58, 0.055, 0.055), (34, 30, 44), outline=False)


def _flower(brush: Brush, rng: Rng) -> None:
    pot, leaf = pick(rng, PLAIN), pick(rng, "84,136,72 112,148,74 66,118,86 136,148,80")
    petal = pick(rng, "250,206,56 248,190,40 252,220,96")
    lean = rng.uniform(-0.07, 0.07)
    brush.tube(curve([(0, 0.26), (lean * 0.4, 0.42), (lean * 1.3, 0.56), (lean, 0.74)]), (86, 142, 74), 0.026)
    for side, y in ((-1, 0.4), (1, 0.47), (-1, 0.56)):
        brush.shape(ellipse(lean * 0.5 + side * 0.11, y, 0.12, 0.05, turn=side * 0.5), leaf)
    brush.shape("-0.15,0.24 0.15,0.24 0.11,0 -0.11,0", pot)
    brush.shape(rectangle(-0.175, 0.21, 0.175, 0.28, 0.02), lighter(pot, 0.12))
    for start, length, depth in ((0.0, 0.12, 0.16), (0.24, 0.096, 0.0)):
        for index, (x, y) in enumerate(ring(13, lean, 0.8, 0.105, start)):
            blade = ellipse(x, y, length, 0.034, turn=start + index * tau / 13)
            brush.shape(blade, darker(petal, depth), shade=0.18)
    brush.shape(ellipse(lean, 0.8, 0.095, 0.095), (104, 62, 34))


def _house(brush: Brush, rng: Rng) -> None:
    wall = pick(rng, PLAIN)
    half, eaves, door = rng.uniform(0.34, 0.44), rng.uniform(0.56, 0.64), rng.choice([-0.2, 0.0, 0.2])
    brush.shape(rectangle(0.42 * half, 0.66, 0.42 * half + 0.12, 1), (150, 92, 78))
    brush.shape(rectangle(-half, 0, half, eaves + 0.02), wall, shade=0.22)
    roof = path([(-half - 0.1, eaves), (0, 0.99), (half + 0.1, eaves)])
    brush.shape(roof, (188, 74, 60), shade=0.25)
    for row in range(1, 6):
        reach = (half + 0.1) * (1 - row / 6) - 0.015
        for x in np.arange(-reach + 0.045, reach, 0.09):
            tile = ellipse(x, eaves + (0.99 - eaves) * row / 6, 0.045, 0.03, span=(tau / 2, tau))
            brush.stroke(tile, (134, 44, 42), 0.011)
    brush.stroke(roof, (112, 40, 40), 0.03)
    brush.shape(ellipse(0, eaves + 0.14, 0.075, 0.075), (250, 230, 170), shade=0.2)
    brush.shape(rectangle(door - 0.08, 0, door + 0.08, 0.28, 0.06), darker(wall, 0.5))
    for x in (-0.55 * half, 0.55 * half):
        brush.shape(rectangle(x - 0.07, 0.33, x + 0.07, 0.48), (168, 202, 214), shade=0.4)
        brush.stroke([(x, 0.33), (x, 0.48), (x, 0.405), (x - 0.07, 0.405), (x + 0.07, 0.405)], WHITE, 0.016)


def _owl(brush: Brush, rng: Rng) -> None:
    plumage = pick(rng, PLAIN)
    for x in (-0.12, 0.12):
        brush.tube([(x - 0.05, 0.02), (x, 0.06), (x + 0.05, 0.02)], (226, 166, 74), 0.028)
    half = path("0,0.04 0.27,0.12 0.35,0.36 0.31,0.62 0.3,0.84 0.31,1 0.12,0.93 0,0.92")
    brush.shape(curve(path(half, (half[1:-1] * (-1, 1))[::-1]), closed=True), plumage)
    brush.shape(ellipse(0, 0.32, 0.22, 0.27), lighter(plumage, 0.45), shade=0.15, outline=False)
    for row in range(4):
        for x in np.arange(-0.17 + 0.0425 * (row % 2), 0.18, 0.085):
            brush.stroke(
                ellipse(x, 0.46 - 0.09 * row, 0.035, 0.03, span=(3.1, 6.3)), darker(plumage, 0.2), 0.013
            )
    for side in BOTH:
        wing = path("0.3,0.58 0.38,0.34 0.3,0.1 0.22,0.3") * (side, 1)
        brush.shape(curve(wing, closed=True), darker(plumage, 0.22))
        brush.shape(ellipse(0.145 * side, 0.73, 0.155, 0.155), (246, 236, 214), shade=0.12)
        brush.shape(ellipse(0.145 * side, 0.73, 0.1, 0.1), (248, 178, 44), shade=0.25)
        brush.shape(ellipse(0.145 * side, 0.73, 0.055, 0.055), (34, 30, 44), outline=False)
        brush.stroke([(0.145 * side - 0.025, 0.755)], WHITE, 0.03)
    brush.shape("-0.05,0.69 0.05,0.69 0,0.59", (226, 150, 60))


def _robot(brush: Brush, rng: Rng) -> None:
    body, metal = pick(rng, PLAIN), (172, 180, 190)
    for side in BOTH:
        brush.tube([(side * 0.1, 0.26), (side * 0.11, 0.05)], metal, 0.06)
        brush.shape(rectangle(side * 0.12 - 0.085, 0, side * 0.12 + 0.085, 0.07, 0.03), darker(body, 0.3))
        hand = (side * 0.36, 0.36 + rng.uniform(-0.14, 0.2))
        brush.tube(curve([(side * 0.2, 0.55), (side * 0.32, 0.5), hand]), metal, 0.045)
        brush.shape(ellipse(*hand, 0.05, 0.05), darker(body, 0.15))
        brush.shape(rectangle(side * 0.2 - 0.03, 0.72, side * 0.2 + 0.03, 0.81, 0.02), (240, 178, 66))
    brush.shape(rectangle(-0.22, 0.22, 0.22, 0.62, 0.05), body)
    brush.shape(rectangle(-0.13, 0.32, 0.13, 0.5, 0.03), lighter(body, 0.35), shade=0.15)
    brush.tube("0,0.86 0,0.95", metal, 0.02)
    brush.shape(ellipse(0, 0.965, 0.035, 0.035), (240, 70, 70), shade=0.4)
    brush.shape(rectangle(-0.19, 0.64, 0.19, 0.88, 0.06), (204, 210, 218))
    brush.shape(rectangle(-0.155, 0.72, 0.155, 0.85, 0.05), (38, 46, 62), shade=0.1)
    for side in BOTH:
        brush.shape(ellipse(0.075 * side, 0.79, 0.045, 0.045), (64, 226, 226), shade=0.45, outline=False)


def _sailboat(brush: Brush, rng: Rng) -> None:
    hull = pick(rng, PLAIN)
    brush.tube("0.02,0.16 0.02,0.98", (168, 122, 82), 0.024)
    brush.shape(path(curve("0.06,0.93 0.3,0.66 0.46,0.27"), "0.06,0.25"), (250, 246, 236))
    for stripe in ("0.065,0.34 0.065,0.44 0.35,0.44 0.41,0.34", "0.065,0.54 0.065,0.64 0.25,0.64 0.31,0.54"):
        brush.shape(stripe, (214, 62, 58), shade=0.15, outline=False)
    brush.shape(path(curve("-0.03,0.88 -0.2,0.55 -0.42,0.27"), "-0.03,0.29"), (236, 232, 222), shade=0.25)
    brush.shape("0.02,1 -0.17,0.965 0.02,0.925", (226, 72, 62), shade=0.2)
    brush.shape(curve("-0.56,0.2 -0.42,0.05 -0.2,0 0.3,0 0.46,0.05 0.56,0.2"), hull)
    brush.shape(rectangle(-0.58, 0.185, 0.58, 0.235, 0.02), lighter(hull, 0.4), shade=0.15)
    for x in (-0.25, -0.05, 0.15):
        brush.shape(ellipse(x, 0.11, 0.032, 0.032), lighter(hull, 0.6), shade=0.1)


def _teapot(brush: Brush, rng: Rng) -> None:
    glaze, trim = pick(rng, PLAIN), (240, 232, 214)
    brush.tube(curve("-0.42,0.66 -0.74,0.74 -0.84,0.46 -0.66,0.2 -0.42,0.22"), trim, 0.075)
    spout = "0.36,0.2 0.62,0.3 0.72,0.58 0.88,0.74 0.78,0.8 0.6,0.66 0.5,0.5 0.36,0.5"
    brush.shape(curve(spout, closed=True), trim)
    brush.shape(ellipse(0, 0.42, 0.52, 0.38), glaze)
    brush.shape(ellipse(0, 0.75, 0.3, 0.13, span=(0, tau / 2)), lighter(glaze, 0.12))
    brush.shape(rectangle(-0.33, 0.72, 0.33, 0.78, 0.03), trim, shade=0.15)
    brush.shape(ellipse(0, 0.93, 0.075, 0.065), trim)
    for x, y in path("-0.36,0.385 -0.18,0.365 0,0.36 0.18,0.365 0.36,0.385"):
        for dot in ring(5, x, y, 0.032, 0.3):
            brush.stroke([dot], WHITE, 0.036)
        brush.stroke([(x, y)], (232, 170, 60), 0.032)
    brush.shape(ellipse(-0.24, 0.62, 0.13, 0.05, turn=0.6), WHITE, shade=0, outline=False, opacity=0.5)


def _rock(brush: Brush, rng: Rng) -> None:
    stone = pick(rng, "140,136,134 124,118,124 156,144,128")
    rim = ellipse(0, 0, 0.8, 0.95, span=(0, tau / 2))[::4] * rng.uniform(0.82, 1.05, (9, 1))
    brush.shape(rim, stone, shade=0.35)
    for corner in (rim[3], rim[5]):
        brush.stroke([corner, corner * 0.55], darker(stone, 0.3), 0.02)


def _crate(brush: Brush, rng: Rng) -> None:
    wood = pick(rng, PLAIN)
    brush.shape(rectangle(-0.5, 0, 0.5, 0.96), darker(wood, 0.12))
    brush.shape("-0.44,0.06 -0.3,0.06 0.44,0.9 0.3,0.9", lighter(wood, 0.1), shade=0.12)
    for box in ((-0.5, 0, 0.5, 0.12), (-0.5, 0.84, 0.5, 0.96), (-0.5, 0, -0.38, 0.96), (0.38, 0, 0.5, 0.96)):
        brush.shape(rectangle(*box), wood, shade=0.15)


def _ball(brush: Brush, rng: Rng) -> None:
    brush.shape(ellipse(0, 0.49, 0.48, 0.48), pick(rng, PLAIN), shade=0.4)
    brush.shape(
        path(curve("-0.44,0.66 0,0.56 0.44,0.66"), curve("0.47,0.42 0,0.32 -0.47,0.42")), pick(rng, PLAIN)
    )
    brush.shape(ellipse(-0.17, 0.76, 0.12, 0.07, turn=0.6), WHITE, shade=0, outline=False, opacity=0.5)


def _barrel(brush: Brush, rng: Rng) -> None:
    colour = pick(rng, PLAIN)
    brush.shape(
        path(curve("0.27,0 0.34,0.5 0.27,0.96"), curve("-0.27,0.96 -0.34,0.5 -0.27,0")), colour, shade=0.38
    )
    for y in (0.2, 0.74):
        brush.shape(rectangle(-0.315, y, 0.315, y + 0.07), (104, 102, 108))
    brush.shape(ellipse(0, 0.95, 0.27, 0.05), darker(colour, 0.35), shade=0.1)


CLASSES: Final[Mapping[str, Look]] = {
    "car": Look(_car, 1.2, 0.52, {"street": 0.65, "meadow": 0.35}),
    "fish": Look(_fish, 1.1, 0.54, {"reef": 0.8, "room": 0.2}),
    "flower": Look(_flower, 0.36, 1, {"meadow": 0.45, "room": 0.35, "street": 0.2}),
    "house": Look(_house, 0.56, 1, {"meadow": 0.6, "street": 0.25, "reef": 0.15}),
    "owl": Look(_owl, 0.4, 0.86, {"meadow": 0.45, "room": 0.3, "street": 0.25}),
    "robot": Look(_robot, 0.45, 0.96, {"street": 0.3, "room": 0.3, "meadow": 0.2, "reef": 0.2}),
    "sailboat": Look(_sailboat, 0.6, 0.94, {"sea": 0.75, "room": 0.25}),
    "teapot": Look(_teapot, 0.9, 0.64, {"room": 0.65, "meadow": 0.35}),
}
CLASS_NAMES: Final = tuple(CLASSES)
CLUTTER: Final[Mapping[str, Look]] = {
    "rock": Look(_rock, 0.9, 0.7, {"meadow": 2, "sea": 1, "reef": 2}),
    "crate": Look(_crate, 0.5, 1, {"meadow": 1, "street": 1, "room": 1}),
    "ball": Look(_ball, 0.5, 1, {"meadow": 1, "street": 1, "room": 2}),
    "barrel": Look(_barrel, 0.34, 1, {"meadow": 1, "sea": 2, "reef": 1, "street": 2, "room": 1}),
}
LOOKS: Final[Mapping[str, Look]] = {**CLASSES, **CLUTTER}
