"""The classes that live in water: fish and sailboat."""

from __future__ import annotations

import math

import numpy as np

from weaksam_cli.data.demo.canvas import INK, WHITE, Canvas, arc, curve, darker, ellipse, lighter, rectangle
from weaksam_cli.data.demo.things import PLAIN, pick


def draw_fish(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain oval; the striped tail and the eye tell."""
    skin = pick(rng, PLAIN)
    plump = float(rng.uniform(0.9, 1.05))
    tail = [(-0.5, 0.5), (-0.72, 0.66), (-1.06, 0.95), (-0.94, 0.5), (-1.06, 0.05), (-0.72, 0.34)]
    canvas.shape(curve(tail, closed=True), (246, 240, 226), shade=0.15)
    for x, reach in ((-0.7, 0.13), (-0.8, 0.21), (-0.9, 0.29)):
        canvas.stroke(
            curve([(x - 0.02, 0.5 + reach), (x + 0.02, 0.5), (x - 0.02, 0.5 - reach)]), (226, 92, 42), 0.055
        )
    fin = curve([(-0.25, 0.84), (-0.16, 1.0), (0.12, 0.98), (0.3, 0.84)])
    canvas.shape([*fin, (0.02, 0.7)], darker(skin, 0.2))
    canvas.shape([(-0.14, 0.18), (-0.26, 0.0), (0.04, 0.04), (0.14, 0.18)], darker(skin, 0.2))
    body = [(-0.62, 0.5), (-0.4, 0.72), (0, 0.5 + 0.38 * plump), (0.44, 0.76), (0.74, 0.5)]
    body += [(0.44, 0.24), (0, 0.5 - 0.38 * plump), (-0.4, 0.28)]
    canvas.shape(curve(body, closed=True), skin)
    for row, y in enumerate((0.66, 0.5, 0.34)):
        for column in range(4):
            x = -0.36 + column * 0.15 + 0.07 * (row % 2)
            canvas.stroke(
                arc(x, y, 0.06, 0.07, (math.pi * 0.6, math.pi * 1.4), steps=8), darker(skin, 0.2), 0.014
            )
    canvas.shape(
        curve([(0.02, 0.5), (-0.2, 0.44), (-0.24, 0.28), (0.0, 0.36)], closed=True), darker(skin, 0.14)
    )
    canvas.stroke(
        arc(0.26, 0.5, 0.1, 0.28, (math.pi * 0.62, math.pi * 1.38), steps=10), darker(skin, 0.35), 0.018
    )
    canvas.shape(ellipse(0.46, 0.58, 0.1, 0.1), WHITE, shade=0.1)
    canvas.shape(ellipse(0.48, 0.58, 0.055, 0.055), INK, shade=0.0, outline=False)
    canvas.stroke([(0.46, 0.61), (0.46, 0.61)], WHITE, 0.03)
    canvas.stroke(curve([(0.72, 0.45), (0.64, 0.42), (0.58, 0.43)]), darker(skin, 0.5), 0.02)
    canvas.gloss(ellipse(0.02, 0.74, 0.22, 0.035), 0.45)


def draw_sailboat(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain hull; the striped sails and the pennant tell."""
    hull = pick(rng, PLAIN)
    canvas.tube([(0.02, 0.16), (0.02, 0.98)], (168, 122, 82), 0.024)
    main = curve([(0.06, 0.93), (0.3, 0.66), (0.46, 0.27)])
    canvas.shape([*main, (0.06, 0.25)], (250, 246, 236), shade=0.18)
    for low, high in ((0.34, 0.44), (0.54, 0.64)):
        stripe = [
            (0.065, low),
            (0.065, high),
            (0.46 - 0.53 * (high - 0.24), high),
            (0.46 - 0.5 * (low - 0.24), low),
        ]
        canvas.shape(stripe, (214, 62, 58), shade=0.15, outline=False)
    jib = curve([(-0.03, 0.88), (-0.2, 0.55), (-0.42, 0.27)])
    canvas.shape([*jib, (-0.03, 0.29)], (236, 232, 222), shade=0.25)
    canvas.shape([(0.02, 1.0), (-0.17, 0.965), (0.02, 0.925)], (226, 72, 62), shade=0.2)
    side = curve([(-0.56, 0.2), (-0.42, 0.05), (-0.2, 0.0), (0.3, 0.0), (0.46, 0.05), (0.56, 0.2)])
    canvas.shape(side, hull)
    canvas.shape(rectangle(-0.58, 0.185, 0.58, 0.235, 0.02), lighter(hull, 0.4), shade=0.15)
    for x in (-0.25, -0.05, 0.15):
        canvas.shape(ellipse(x, 0.11, 0.032, 0.032), lighter(hull, 0.6), shade=0.1)
