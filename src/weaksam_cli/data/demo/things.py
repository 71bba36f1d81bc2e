"""The classes that live on land: car, flower, house, owl, robot, teapot.

Each has one constant, telling part (wheels, bloom, roof, face, glowing head, spout) and a plain remainder whose colour
varies freely and is shared with clutter. A classifier learns the part, which is what weak supervision suffers from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from weaksam_cli.data.demo.canvas import (
    INK,
    WHITE,
    Canvas,
    Colour,
    Point,
    arc,
    curve,
    darker,
    ellipse,
    lighter,
    mix,
    rectangle,
)

PLAIN: Final[Sequence[Colour]] = (
    (196, 84, 74),
    (222, 150, 66),
    (226, 196, 104),
    (118, 158, 92),
    (82, 146, 140),
    (86, 128, 178),
    (136, 110, 166),
    (196, 122, 142),
    (150, 142, 134),
    (216, 206, 188),
    (112, 86, 74),
)
"""Colours of bodies, walls, pots and clutter alike."""


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of `colours`, slightly off."""
    base = colours[int(rng.integers(len(colours)))]
    red, green, blue = (int(np.clip(value + rng.normal(0, 7), 0, 255)) for value in base)
    return red, green, blue


def draw_car(canvas: Canvas, rng: np.random.Generator) -> None:
    """Side view; the wheels tell."""
    body = pick(rng, PLAIN)
    glass = mix((150, 196, 214), WHITE, float(rng.uniform(0, 0.25)))
    boxy = float(rng.uniform(0, 1))
    roof = curve([(-0.72, 0.52), (-0.5 - 0.12 * boxy, 0.93), (-0.1, 1.0), (0.32, 0.94), (0.62, 0.56)])
    canvas.shape([*roof, (0.62, 0.4), (-0.72, 0.4)], darker(body, 0.08))
    for left, right in ((-0.56, -0.1), (-0.04, 0.5)):
        top_left, top_right = left + 0.1 * (left < -0.2), right - 0.2 * (right > 0.2)
        canvas.shape([(left, 0.56), (top_left, 0.88), (top_right, 0.88), (right, 0.56)], glass, shade=0.45)
    side = curve(
        [(-1.08, 0.2), (-1.12, 0.42), (-0.98, 0.56), (0, 0.59), (0.7, 0.56), (1.06, 0.46), (1.12, 0.2)]
    )
    canvas.shape([*side, (1.1, 0.16), (-1.06, 0.16)], body)
    canvas.stroke([(-0.07, 0.54), (-0.09, 0.24)], darker(body, 0.4), 0.012)
    canvas.stroke([(0.02, 0.45), (0.12, 0.45)], darker(body, 0.5), 0.022)
    canvas.shape(rectangle(-1.14, 0.15, 1.14, 0.23, 0.04), darker(body, 0.45), shade=0.15)
    canvas.shape(ellipse(1.03, 0.41, 0.07, 0.06), (252, 236, 170), shade=0.2)
    canvas.shape(ellipse(-1.06, 0.42, 0.05, 0.06), (206, 60, 52), shade=0.2)
    canvas.gloss([(-0.9, 0.5), (0.8, 0.5), (0.76, 0.46), (-0.92, 0.46)], 0.45)
    for x in (-0.62, 0.64):
        _wheel(canvas, x)


def _wheel(canvas: Canvas, x: float) -> None:
    canvas.shape(ellipse(x, 0.2, 0.25, 0.25), (44, 44, 52), shade=0.2)
    canvas.shape(ellipse(x, 0.2, 0.16, 0.16), (206, 208, 214), shade=0.3)
    for spoke in range(5):
        angle = 0.3 + spoke * 2 * math.pi / 5
        end = (x + 0.14 * math.cos(angle), 0.2 + 0.14 * math.sin(angle))
        canvas.stroke([(x, 0.2), end], (96, 98, 108), 0.035)
    canvas.shape(ellipse(x, 0.2, 0.05, 0.05), (60, 62, 70), shade=0.2)


def draw_flower(canvas: Canvas, rng: np.random.Generator) -> None:
    """A potted flower on a long stem; the bloom tells."""
    pot = pick(rng, PLAIN)
    petal = pick(rng, ((250, 206, 56), (248, 190, 40), (252, 220, 96)))
    lean = float(rng.uniform(-0.07, 0.07))
    stem = curve([(0, 0.26), (lean * 0.4, 0.42), (lean * 1.3, 0.56), (lean, 0.74)])
    canvas.tube(stem, (86, 142, 74), 0.026)
    leaf = pick(rng, ((98, 158, 80), (78, 140, 92), (122, 164, 74)))
    for side, y in ((-1, 0.34), (1, 0.41), (-1, 0.5)):
        tip = (lean * 0.5 + side * 0.2, y + 0.11)
        blade = curve([(lean * 0.5, y), (side * 0.09, y + 0.11), tip, (side * 0.14, y + 0.01)], closed=True)
        canvas.shape(blade, leaf)
        canvas.stroke([(lean * 0.5, y), tip], darker(leaf, 0.3), 0.008)
    canvas.shape([(-0.15, 0.24), (0.15, 0.24), (0.11, 0.0), (-0.11, 0.0)], pot)
    canvas.shape(rectangle(-0.175, 0.21, 0.175, 0.28, 0.02), lighter(pot, 0.12))
    centre, radius = (lean, 0.8), 0.17
    for ring, count, length in ((0.0, 13, 1.32), (0.24, 13, 1.05)):
        for index in range(count):
            angle = ring + index * 2 * math.pi / count
            x, y = centre[0] + radius * 0.62 * math.cos(angle), centre[1] + radius * 0.62 * math.sin(angle)
            canvas.shape(
                ellipse(x, y, radius * 0.54 * length, radius * 0.2, turn=angle, steps=18),
                petal if ring else darker(petal, 0.16),
                shade=0.18,
            )
    canvas.shape(ellipse(*centre, radius * 0.56, radius * 0.56), (104, 62, 34), shade=0.3)
    for index in range(26):
        angle, distance = index * 2.39996, radius * 0.48 * math.sqrt(index / 26)
        x, y = centre[0] + distance * math.cos(angle), centre[1] + distance * math.sin(angle)
        canvas.stroke([(x, y), (x, y)], (176, 118, 60), 0.013)


def draw_house(canvas: Canvas, rng: np.random.Generator) -> None:
    """A tall plain wall under a tiled roof with a round window; the roof tells."""
    wall = pick(rng, PLAIN)
    half = float(rng.uniform(0.34, 0.44))
    eaves = float(rng.uniform(0.56, 0.64))
    chimney = half * 0.42
    canvas.shape(rectangle(chimney, 0.66, chimney + 0.11, 0.97), (150, 92, 78))
    canvas.shape(rectangle(chimney - 0.015, 0.94, chimney + 0.125, 1.0), (176, 112, 94))
    canvas.shape(rectangle(-half, 0, half, eaves + 0.02), wall, shade=0.22)
    canvas.shape(rectangle(-half, 0, half, 0.05), darker(wall, 0.3), shade=0.1)
    apex, over = (0.0, 0.99), half + 0.1
    canvas.shape([(-over, eaves), apex, (over, eaves)], (188, 74, 60), shade=0.25)
    for row in range(1, 6):
        y = eaves + (apex[1] - eaves) * row / 6
        reach = over * (apex[1] - y) / (apex[1] - eaves) - 0.015
        count = max(1, round(reach * 2 / 0.09))
        for index in range(count):
            x = -reach + (index + 0.5) * 2 * reach / count
            canvas.stroke(
                arc(x, y, reach / count, 0.03, (math.pi, 2 * math.pi), steps=6), (134, 44, 42), 0.011
            )
    canvas.stroke([(-over, eaves), apex, (over, eaves)], (112, 40, 40), 0.03)
    canvas.shape(ellipse(0, eaves + 0.14, 0.075, 0.075), (250, 230, 170), shade=0.2)
    canvas.stroke([(-0.075, eaves + 0.14), (0.075, eaves + 0.14)], (112, 70, 52), 0.014)
    canvas.stroke([(0, eaves + 0.065), (0, eaves + 0.215)], (112, 70, 52), 0.014)
    door = float(rng.choice([-0.5, 0.0, 0.5])) * half
    canvas.shape(
        [*rectangle(door - 0.08, 0, door + 0.08, 0.24)[:2], *arc(door, 0.2, 0.08, 0.08, (0, math.pi))],
        darker(wall, 0.5),
    )
    for x in (-0.55 * half, 0.55 * half):
        canvas.shape(rectangle(x - 0.07, 0.33, x + 0.07, 0.48), (168, 202, 214), shade=0.4)
        canvas.stroke([(x, 0.33), (x, 0.48)], WHITE, 0.016)
        canvas.stroke([(x - 0.07, 0.405), (x + 0.07, 0.405)], WHITE, 0.016)


def draw_owl(canvas: Canvas, rng: np.random.Generator) -> None:
    """A round bird; the face with its two discs tells."""
    plumage = pick(rng, PLAIN)
    for x in (-0.12, 0.12):
        for toe in (-0.05, 0.0, 0.05):
            canvas.tube([(x, 0.07), (x + toe, 0.015)], (226, 166, 74), 0.028)
    outline = [
        (0, 0.04),
        (-0.27, 0.12),
        (-0.35, 0.36),
        (-0.31, 0.62),
        (-0.3, 0.84),
        (-0.31, 1.0),
        (-0.12, 0.93),
        (0, 0.92),
    ]
    mirrored = [(-x, y) for x, y in reversed(outline[1:-1])]
    canvas.shape(curve([*outline, *mirrored], closed=True), plumage)
    canvas.shape(ellipse(0, 0.32, 0.22, 0.27), lighter(plumage, 0.45), shade=0.15, outline=False)
    for row in range(4):
        for index in range(-2 + row % 2, 3):
            x, y = (index - 0.5 * (row % 2)) * 0.085, 0.46 - row * 0.09
            canvas.stroke(
                arc(x, y, 0.035, 0.03, (math.pi, 2 * math.pi), steps=6), darker(plumage, 0.2), 0.013
            )
    for side in (-1, 1):
        wing = [(side * 0.3, 0.58), (side * 0.38, 0.34), (side * 0.3, 0.1), (side * 0.22, 0.3)]
        canvas.shape(curve(wing, closed=True), darker(plumage, 0.22))
    for x in (-0.145, 0.145):
        canvas.shape(ellipse(x, 0.73, 0.155, 0.155), (246, 236, 214), shade=0.12)
        canvas.shape(ellipse(x, 0.73, 0.1, 0.1), (248, 178, 44), shade=0.25)
        canvas.shape(ellipse(x, 0.73, 0.055, 0.055), INK, shade=0.0, outline=False)
        canvas.stroke([(x - 0.025, 0.755), (x - 0.025, 0.755)], WHITE, 0.03)
    canvas.shape([(-0.05, 0.69), (0.05, 0.69), (0, 0.59)], (226, 150, 60))


def draw_robot(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain box with limbs; the head with glowing eyes and antenna tells."""
    body = pick(rng, PLAIN)
    metal: Colour = (172, 180, 190)
    for side in (-1, 1):
        canvas.tube([(side * 0.1, 0.26), (side * 0.11, 0.05)], metal, 0.06)
        canvas.shape(rectangle(side * 0.12 - 0.085, 0.0, side * 0.12 + 0.085, 0.07, 0.03), darker(body, 0.3))
        lift = float(rng.uniform(-0.14, 0.2))
        hand = (side * 0.36, 0.36 + lift)
        canvas.tube(curve([(side * 0.2, 0.55), (side * 0.32, 0.5), hand]), metal, 0.045)
        canvas.shape(ellipse(*hand, 0.05, 0.05), darker(body, 0.15))
    canvas.shape(rectangle(-0.22, 0.22, 0.22, 0.62, 0.05), body)
    canvas.shape(rectangle(-0.13, 0.32, 0.13, 0.5, 0.03), lighter(body, 0.35), shade=0.15)
    canvas.tube([(0, 0.62), (0, 0.67)], metal, 0.08)
    canvas.tube([(0, 0.86), (0, 0.95)], metal, 0.02)
    canvas.shape(ellipse(0, 0.965, 0.035, 0.035), (240, 70, 70), shade=0.4)
    canvas.shape(rectangle(-0.19, 0.65, 0.19, 0.88, 0.06), (204, 210, 218), shade=0.3)
    canvas.shape(rectangle(-0.155, 0.72, 0.155, 0.85, 0.05), (38, 46, 62), shade=0.1)
    for x in (-0.075, 0.075):
        canvas.shape(ellipse(x, 0.79, 0.045, 0.045), (64, 226, 226), shade=0.45, outline=False)
        canvas.stroke([(x - 0.012, 0.805), (x - 0.012, 0.805)], WHITE, 0.022)
    canvas.stroke([(-0.07, 0.69), (0.07, 0.69)], (84, 92, 106), 0.018)
    for x in (-0.2, 0.2):
        canvas.shape(rectangle(x - 0.03, 0.72, x + 0.03, 0.81, 0.02), (240, 178, 66))


def draw_teapot(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain round body; spout, handle and knob tell."""
    glaze = pick(rng, PLAIN)
    trim: Colour = (240, 232, 214)
    handle = curve([(-0.42, 0.66), (-0.74, 0.74), (-0.84, 0.46), (-0.66, 0.2), (-0.42, 0.22)])
    canvas.tube(handle, trim, 0.075)
    spout = [
        (0.36, 0.2),
        (0.62, 0.3),
        (0.72, 0.58),
        (0.88, 0.74),
        (0.78, 0.8),
        (0.6, 0.66),
        (0.5, 0.5),
        (0.36, 0.5),
    ]
    canvas.shape(curve(spout, closed=True), trim)
    canvas.stroke([(0.79, 0.785), (0.88, 0.735)], darker(trim, 0.6), 0.03)
    canvas.shape(rectangle(-0.3, 0.0, 0.3, 0.09, 0.03), darker(glaze, 0.25))
    canvas.shape(ellipse(0, 0.42, 0.52, 0.38), glaze, shade=0.34)
    canvas.shape(
        curve([(-0.3, 0.75), (-0.2, 0.85), (0, 0.88), (0.2, 0.85), (0.3, 0.75)]), lighter(glaze, 0.12)
    )
    canvas.shape(rectangle(-0.33, 0.72, 0.33, 0.78, 0.03), trim, shade=0.15)
    canvas.shape(ellipse(0, 0.93, 0.075, 0.065), trim)
    band: list[Point] = [(x, 0.42 - 0.06 * math.cos(x * 2.6)) for x in (-0.36, -0.18, 0.0, 0.18, 0.36)]
    for x, y in band:
        for petal in range(5):
            angle = petal * 2 * math.pi / 5 + 0.3
            dot = (x + 0.032 * math.cos(angle), y + 0.032 * math.sin(angle))
            canvas.stroke([dot, dot], WHITE, 0.036)
        canvas.stroke([(x, y), (x, y)], (232, 170, 60), 0.032)
    canvas.gloss(ellipse(-0.24, 0.6, 0.13, 0.05, turn=0.6), 0.6)
