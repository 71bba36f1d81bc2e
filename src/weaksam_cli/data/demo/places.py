"""Places: meadow, sea, under water, street and room, never twice the same.

All are painted at the size of a canvas (see `brush.SCALE`) as float32 RGB, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import tau
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from weaksam_cli.data.demo.brush import Colour, darker, lighter, mix, pick

Rng = np.random.Generator
FloatImage = NDArray[np.float32]
Size = tuple[int, int]
"""Height and width."""
Place = tuple[FloatImage, float]
"""The pixels (h, w, 3), and the horizon as a share of the height: feet stand below it."""


def rgb(colour: Colour) -> FloatImage:
    """The colour as float32 (3,)."""
    return np.asarray(colour, np.float32)


def noise(rng: Rng, size: Size, cell: float, stretch: float = 1.0, octaves: int = 4) -> FloatImage:
    """Clouds in [-0.5, 0.5], float32 (h, w), with features of about `cell` pixels, wider than high by `stretch`."""
    total = np.zeros(size, np.float32)
    for scale in (2**octave for octave in range(octaves)):
        rows, columns = round(size[0] * scale / cell) + 3, round(size[1] * scale / (cell * stretch)) + 3
        grid = rng.random((rows, columns), dtype=np.float32)
        total += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) / scale
    return np.clip(total / (2 - 2.0 ** (1 - octaves)), 0, 1) - 0.5


def _ramp(top: Colour, bottom: Colour, size: Size) -> FloatImage:
    share = np.linspace(0, 1, size[0], dtype=np.float32)[:, None, None]
    return np.repeat(rgb(top) + (rgb(bottom) - rgb(top)) * share, size[1], axis=1)


def _blend(under: FloatImage, over: FloatImage | Colour, share: FloatImage) -> FloatImage:
    mixed: FloatImage = under + (np.asarray(over, np.float32) - under) * share[..., None]
    return mixed


def _below(rng: Rng, size: Size, row: float, swing: float, cell: float) -> FloatImage:
    """Smooth mask (h, w) of what lies under an uneven line around `row`."""
    line = row + noise(rng, (4, size[1]), cell)[0] * 2 * swing
    return np.clip(np.arange(size[0], dtype=np.float32)[:, None] - line, 0, 1)


def _sky(rng: Rng, size: Size, horizon: int) -> tuple[FloatImage, Colour]:
    """Clouds over a gradient, and the colour of the haze at the horizon."""
    top = pick(rng, "92,160,220 120,176,214 86,120,176 150,176,196 72,140,190")
    haze = pick(rng, "214,234,244 248,226,196 246,196,160 226,230,230 190,224,228")
    clouds = noise(rng, size, size[0] * 0.28, 2.4)
    cover = np.clip((clouds - rng.uniform(0, 0.12)) * 5, 0, 0.85)
    sky = _ramp(top, haze, (horizon, size[1]))
    sky = np.concatenate([sky, _ramp(haze, haze, (size[0] - horizon, size[1]))])
    return _blend(sky, lighter(haze, 0.6), cover), haze


def _floor(size: Size, horizon: int) -> tuple[FloatImage, FloatImage]:
    """How far across and away every pixel below the horizon lies on the floor, (h - horizon, w) each."""
    away = (size[0] - horizon) / (np.arange(size[0] - horizon, dtype=np.float32)[:, None] + 18)
    return ((np.arange(size[1]) / size[1] - 0.5) * away).astype(np.float32), away.astype(np.float32)


def _meadow(rng: Rng, size: Size) -> Place:
    height, width = size
    horizon = round(height * rng.uniform(0.34, 0.5))
    pixels, haze = _sky(rng, size, horizon)
    green = pick(rng, "106,148,66 134,156,70 82,138,84 160,154,80")
    for depth in range(3):
        tint = mix(mix(darker(green, 0.3), haze, 0.68 - 0.26 * depth), (90, 120, 150), 0.16)
        hill = rgb(tint) + noise(rng, size, 28)[..., None] * (18 + 10 * depth)
        row = horizon - (2 - depth) * height * 0.06
        pixels = _blend(pixels, hill, _below(rng, size, row, height * 0.05, width * 0.5))
    ground = _ramp(lighter(green, 0.22), darker(green, 0.25), (height - horizon, width))
    pixels[horizon:] = ground + noise(rng, ground.shape[:2], 52, 2.5)[..., None] * rgb((70, 54, 34))
    for tone in (lighter(green, 0.2), darker(green, 0.2), mix(green, (230, 214, 110), 0.3)):
        near = rng.random(width)
        foot = np.stack([rng.random(width) * width, horizon + near * (height - horizon) * 1.05], axis=1)
        tip = (
            foot + np.stack([rng.normal(0, 0.35, width), -np.ones(width)], axis=1) * (4 + 16 * near)[:, None]
        )
        cv2.polylines(pixels, list(np.rint(np.stack([foot, tip], axis=1)).astype(np.int32)), False, tone)
    return pixels, horizon / height


def _sea(rng: Rng, size: Size) -> Place:
    horizon = round(size[0] * rng.uniform(0.28, 0.4))
    pixels, haze = _sky(rng, size, horizon)
    coast = _below(rng, size, horizon - size[0] * 0.02, size[0] * 0.05, size[1] * 0.35)
    pixels = _blend(pixels, mix((84, 110, 120), haze, 0.5), coast)
    tone = pick(rng, "38,108,146 56,132,148 60,96,132")
    water = _ramp(mix(tone, haze, 0.55), darker(tone, 0.3), (size[0] - horizon, size[1]))
    fine, coarse = (noise(rng, water.shape[:2], cell, 11, 1) for cell in (4.4, 14))
    near = np.linspace(0, 1, len(water), dtype=np.float32)[:, None]
    pixels[horizon:] = (
        water + (fine * (60 - near * 33) + coarse * near * 66 + (fine * coarse > 0.1) * 50)[..., None]
    )
    return pixels, horizon / size[0]


def _reef(rng: Rng, size: Size) -> Place:
    height, width = size
    top = pick(rng, "92,190,200 110,186,190 84,156,206")
    deep = darker(top, 0.72)
    beams = noise(rng, (2, 2 * width), 44, 1, 1)[0]
    slant = (np.arange(width) + (np.arange(height)[:, None] * 0.45).astype(int)) % (2 * width)
    fade = np.linspace(1, 0, height, dtype=np.float32)[:, None] ** 1.4
    light = np.clip(beams[slant], 0, 1) * fade * 120 + noise(rng, size, 120) * 40
    sand = mix((206, 196, 150), deep, 0.5) + noise(rng, size, 36, 2)[..., None] * 50
    floor = _below(rng, size, height * rng.uniform(0.8, 0.88), height * 0.05, width * 0.4)
    pixels = _blend(_ramp(top, deep, size) + light[..., None], sand, floor)
    for x, y, r in rng.uniform((0, 0, 2), (width, 0.8 * height, 7), (20, 3)):
        cv2.circle(pixels, (round(x), round(y)), round(r), lighter(top, 0.4), 1)
    return pixels, 0.84


def _street(rng: Rng, size: Size) -> Place:
    horizon = round(size[0] * rng.uniform(0.42, 0.54))
    pixels, haze = _sky(rng, size, horizon)
    left = 0
    while left < size[1]:
        right = left + round(rng.uniform(0.12, 0.26) * size[1])
        wall = mix(pick(rng, "170,140,124 142,146,156 190,172,146 150,116,108 120,132,146"), haze, 0.35)
        _house_front(
            pixels, rng, (left, horizon - round(rng.uniform(0.16, 0.42) * size[0]), right, horizon), wall
        )
        left = right
    across, away = _floor(size, horizon)
    grey = pick(rng, "122,122,128 140,134,128 104,110,120")
    road = _ramp(lighter(grey, 0.15), darker(grey, 0.12), across.shape) + rng.normal(
        0, 10, (*across.shape, 1)
    )
    road += noise(rng, across.shape, 68, 2)[..., None] * 34
    road[(np.abs(across - 0.08) < 0.018) & (np.mod(away * 2.2, 1) < 0.55)] += rgb((70, 68, 60))
    road[: size[0] // 20] += 40
    pixels[horizon:] = road
    return pixels, horizon / size[0]


def _house_front(pixels: FloatImage, rng: Rng, box: tuple[int, int, int, int], wall: Colour) -> None:
    """A distant building with rows of windows, some of them lit."""
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = wall
    pixels[top : top + 4, left:right] = darker(wall, 0.25)
    for x in range(left + 10, right - 14, 24):
        for y in range(top + 14, bottom - 16, 30):
            pixels[y : y + 15, x : x + 10] = (246, 226, 160) if rng.random() < 0.2 else darker(wall, 0.32)


def _room(rng: Rng, size: Size) -> Place:
    height, width = size
    horizon = round(height * rng.uniform(0.5, 0.6))
    paper = pick(rng, "196,208,196 226,206,186 184,196,212 222,198,198 206,200,178")
    tone = pick(rng, "120,86,74 76,96,112 104,112,96 176,122,76 150,104,74 196,150,104")
    step = tau / rng.uniform(28, 52)
    x, y = np.cos(np.arange(width) * step), np.cos(np.arange(height) * step)[:, None]
    pattern = ((x + 0 * y) * 3, (x + y - 1.35) * 3, (x + y) * 4)[int(rng.integers(3))]
    pixels = _ramp(lighter(paper, 0.2), darker(paper, 0.08), size)
    pixels += (np.clip(pattern, -0.8, 0.8) * rng.uniform(12, 22))[..., None]
    pixels[horizon - height // 28 : horizon] = lighter(paper, 0.65)
    across, away = _floor(size, horizon)
    plank = np.floor(across * 5)
    if rng.random() < 0.5:
        floor = np.mod(plank + np.floor(away * 3.7), 2) * 100 - 20
    else:
        floor = (
            np.sin(plank * 13) * 0.5 + noise(rng, across.shape, 18, 0.3, 1) - (np.mod(across * 5, 1) < 0.04)
        ) * 34
    pixels[horizon:] = rgb(tone) + floor[..., None]
    glow = 0.88 + 0.2 * np.exp(-(((np.arange(width) / width - rng.uniform(0.2, 0.8)) / 0.35) ** 2))
    shadow = 1 - 0.22 * np.exp(-np.abs(np.arange(height) - horizon) / (0.05 * height))[:, None]
    return (pixels * (glow * shadow)[..., None]).astype(np.float32), horizon / height


Painter = Callable[[Rng, Size], Place]
PLACES: Final[Mapping[str, Painter]] = {
    painter.__name__.strip("_"): painter for painter in (_meadow, _sea, _reef, _street, _room)
}
