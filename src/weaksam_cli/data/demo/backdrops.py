"""Places: meadow, shore, sea, under water, street and room, painted as float32 RGB (height, width, 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from weaksam_cli.data.demo.canvas import Colour, darker, lighter, mix
from weaksam_cli.data.demo.noise import FloatImage, cloudy, ridge, value_noise

SKIES: Final[Sequence[tuple[Colour, Colour]]] = (
    ((92, 160, 220), (214, 234, 244)),
    ((120, 176, 214), (248, 226, 196)),
    ((86, 120, 176), (246, 196, 160)),
    ((150, 176, 196), (226, 230, 230)),
    ((72, 140, 190), (190, 224, 228)),
)


@dataclass(frozen=True)
class Backdrop:
    """A painted place.

    Attributes:
        pixels: float32 (height, width, 3), 0 to 255.
        horizon: row where the ground begins; feet stand below it.
        floating: whether things hang in the water instead of standing.
    """

    pixels: FloatImage
    horizon: int
    floating: bool = False


def paint_backdrop(place: str, rng: np.random.Generator, height: int, width: int) -> Backdrop:
    """The place of that name, never twice the same."""
    return PLACES[place](rng, height, width)


def _colour(colour: Colour) -> FloatImage:
    return np.asarray(colour, dtype=np.float32)


def _blend(a: FloatImage, b: FloatImage, share: FloatImage) -> FloatImage:
    mixed: FloatImage = a + (b - a) * share[..., None]
    return mixed


def _ramp(top: Colour, bottom: Colour, height: int, width: int) -> FloatImage:
    share = np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)
    return _blend(_colour(top), _colour(bottom), share)


def _below(line: FloatImage, height: int) -> FloatImage:
    """Smooth mask of what lies under a horizon line, (height, width)."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.clip(rows - line[None, :] + 0.5, 0, 1)


def _sky(rng: np.random.Generator, height: int, width: int, horizon: int) -> tuple[FloatImage, Colour]:
    top, bottom = SKIES[int(rng.integers(len(SKIES)))]
    sky = np.concatenate([_ramp(top, bottom, horizon, width), _ramp(bottom, bottom, height - horizon, width)])
    clouds = cloudy(rng, height, width, height * 0.28, stretch=2.4)
    cover = np.clip((clouds - float(rng.uniform(0.5, 0.62))) * 5, 0, 1) * np.float32(0.85)
    shaded = _blend(
        _colour(lighter(bottom, 0.75)), _colour(mix(bottom, top, 0.45)), np.clip(clouds * 1.6 - 0.6, 0, 1)
    )
    fade = np.linspace(1.0, 0.3, height, dtype=np.float32)[:, None]
    return _blend(sky, shaded, cover * fade), bottom


def _strokes(
    pixels: FloatImage,
    rng: np.random.Generator,
    horizon: int,
    colours: Sequence[Colour],
    *,
    count: int,
    lean: float,
) -> FloatImage:
    """Blades of grass: short lines, longer towards the viewer."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    depth = np.sort(rng.random(count)) ** 0.8
    for near, x, bend, pick in zip(
        depth, rng.random(count), rng.normal(size=count), rng.random(count), strict=True
    ):
        y = horizon + near * (height - horizon) * 1.05
        length = 2 + 8 * near
        colour = colours[int(pick * len(colours))]
        draw.line((x * width, y, x * width + bend * lean * length, y - length), fill=(*colour, 110), width=1)
    return np.asarray(image, dtype=np.float32)


def _perspective(height: int, width: int, horizon: int) -> tuple[FloatImage, FloatImage]:
    """Floor coordinates (across, away) of every row and column below the horizon, at three times the resolution."""
    rows = np.arange((height - horizon) * 3, dtype=np.float32)[:, None] / 3 + 9
    columns = (np.arange(width * 3, dtype=np.float32)[None, :] / 3 - width / 2) / width
    away = np.float32(height - horizon) / rows
    return (columns * away).astype(np.float32), np.broadcast_to(away, (rows.size, width * 3)).astype(
        np.float32
    )


def _shrink(fine: FloatImage) -> FloatImage:
    rows, columns = fine.shape[0] // 3, fine.shape[1] // 3
    means: FloatImage = fine.reshape(rows, 3, columns, 3).mean(axis=(1, 3))
    return means


def _meadow(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = round(height * float(rng.uniform(0.34, 0.5)))
    pixels, haze = _sky(rng, height, width, horizon)
    green: Colour = [(106, 148, 66), (134, 156, 70), (82, 138, 84), (160, 154, 80)][int(rng.integers(4))]
    for depth in range(3):
        line = ridge(rng, width, horizon - (2 - depth) * height * 0.06, height * 0.05, width * 0.5)
        tint = mix(mix(darker(green, 0.3), haze, 0.68 - 0.26 * depth), (90, 120, 150), 0.16)
        texture = (cloudy(rng, height, width, 14) - 0.5)[..., None] * np.float32(18 + 10 * depth)
        pixels = _blend(pixels, _colour(tint) + texture, _below(line, height))
    ground = _ramp(lighter(green, 0.22), darker(green, 0.25), height - horizon, width)
    patches = cloudy(rng, height - horizon, width, 26, stretch=2.5)[..., None]
    ground = ground + (patches - 0.5) * np.asarray([70, 54, 34], dtype=np.float32)
    full = np.concatenate([pixels[:horizon], ground])
    line = ridge(rng, width, horizon + 1, 1.5, 30)
    pixels = _blend(pixels, full, _below(line, height))
    blades = [
        lighter(green, 0.35),
        darker(green, 0.35),
        mix(green, (230, 214, 110), 0.4),
        darker(green, 0.15),
    ]
    return Backdrop(_strokes(pixels, rng, horizon, blades, count=width * 9, lean=0.35), horizon)


def _shore(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = round(height * float(rng.uniform(0.26, 0.36)))
    pixels, haze = _sky(rng, height, width, horizon)
    edge = ridge(rng, width, height * float(rng.uniform(0.46, 0.54)), height * 0.025, width * 0.7)
    water = _water(rng, (height, width), horizon, tone=(44, 128, 150), haze=haze)
    pixels = _blend(pixels, water, _below(np.full(width, horizon, dtype=np.float32), height))
    sand: Colour = [(222, 196, 148), (206, 180, 140), (232, 210, 172)][int(rng.integers(3))]
    beach = _ramp(lighter(sand, 0.1), darker(sand, 0.2), height, width)
    beach = beach + (cloudy(rng, height, width, 30, stretch=3)[..., None] - 0.5) * 46
    beach = beach + rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    wet = np.clip(1 - (np.arange(height, dtype=np.float32)[:, None] - edge[None, :]) / (height * 0.06), 0, 1)
    beach = beach * (1 - 0.25 * wet[..., None])
    pixels = _blend(pixels, beach, _below(edge, height))
    foam = np.exp(-(((np.arange(height, dtype=np.float32)[:, None] - edge[None, :]) / 2.2) ** 2))
    foam = foam * (0.5 + value_noise(rng, height, width, 5, 9))
    return Backdrop(_blend(pixels, _colour((250, 252, 250)), np.clip(foam, 0, 1)), round(height * 0.5))


def _water(
    rng: np.random.Generator, size: tuple[int, int], horizon: int, *, tone: Colour, haze: Colour
) -> FloatImage:
    """Waves that grow towards the viewer, below `horizon`; rows above it are filled alike."""
    height, width = size
    depth = height - horizon
    rows = np.concatenate(
        [_ramp(tone, tone, horizon, width), _ramp(mix(tone, haze, 0.55), darker(tone, 0.3), depth, width)]
    )
    fine = value_noise(rng, height, width, 2.2, 26)
    coarse = value_noise(rng, height, width, 7, 70)
    near = np.clip((np.arange(height, dtype=np.float32) - horizon) / depth, 0, 1)[:, None]
    waves = (fine - 0.5) * (1 - near * 0.55) + (coarse - 0.5) * near * 1.1
    glints = np.clip(fine * coarse * 2.6 - 1.25, 0, 1) * 90
    return rows + (waves * 60 + glints)[..., None]


def _sea(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = round(height * float(rng.uniform(0.3, 0.42)))
    pixels, haze = _sky(rng, height, width, horizon)
    line = ridge(rng, width, horizon - height * 0.02, height * 0.05, width * 0.35)
    pixels = _blend(pixels, _colour(mix((84, 110, 120), haze, 0.5)), _below(line, height) * np.float32(0.9))
    tone: Colour = [(38, 108, 146), (56, 132, 148), (60, 96, 132)][int(rng.integers(3))]
    water = _water(rng, (height, width), horizon, tone=tone, haze=haze)
    return Backdrop(_blend(pixels, water, _below(np.full(width, horizon, dtype=np.float32), height)), horizon)


def _reef(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    top, bottom = [
        ((92, 190, 200), (12, 62, 96)),
        ((110, 186, 190), (22, 80, 96)),
        ((84, 156, 206), (18, 44, 96)),
    ][int(rng.integers(3))]
    pixels = _ramp(top, bottom, height, width)
    pixels = pixels + (cloudy(rng, height, width, 60)[..., None] - 0.5) * 40
    beams = value_noise(rng, 2, width * 2, 2, 22)[0]
    slant = (np.arange(width)[None, :] + (np.arange(height)[:, None] * 0.45).astype(int)) % (width * 2)
    fade = np.linspace(1, 0, height, dtype=np.float32)[:, None] ** 1.4
    pixels = pixels + (np.clip(beams[slant] - 0.5, 0, 1) * fade * 120)[..., None]
    floor = ridge(rng, width, height * float(rng.uniform(0.8, 0.88)), height * 0.05, width * 0.4)
    sand = _ramp(mix((206, 196, 150), bottom, 0.42), mix((206, 196, 150), bottom, 0.62), height, width)
    sand = sand + (cloudy(rng, height, width, 18, stretch=2)[..., None] - 0.5) * 50
    pixels = _blend(pixels, sand, _below(floor, height))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize(
        (width * 3, height * 3), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(12, 30))):
        x, y, r = (
            float(rng.random()) * width * 3,
            float(rng.random()) * height * 2.4,
            float(rng.uniform(2, 10)),
        )
        draw.ellipse(
            (x - r, y - r, x + r, y + r), outline=(226, 246, 250, 150), width=2, fill=(255, 255, 255, 26)
        )
    small = image.resize((width, height), Image.Resampling.BOX)
    return Backdrop(np.asarray(small, dtype=np.float32), round(height * 0.3), floating=True)


def _street(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = round(height * float(rng.uniform(0.42, 0.54)))
    pixels, haze = _sky(rng, height, width, horizon)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize(
        (width * 3, height * 3), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(image)
    x = -float(rng.uniform(0, 0.1)) * width
    walls: Sequence[Colour] = (
        (170, 140, 124),
        (142, 146, 156),
        (190, 172, 146),
        (150, 116, 108),
        (120, 132, 146),
    )
    while x < width:
        wide, tall = float(rng.uniform(0.12, 0.26)) * width, float(rng.uniform(0.16, 0.42)) * height
        _facade(
            draw,
            rng,
            (x, horizon - tall, x + wide, horizon + 2),
            mix(walls[int(rng.integers(5))], haze, 0.35),
        )
        x += wide
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    across, away = _perspective(height, width, horizon)
    grey: Colour = [(122, 122, 128), (140, 134, 128), (104, 110, 120)][int(rng.integers(3))]
    road = _ramp(lighter(grey, 0.15), darker(grey, 0.12), height - horizon, width)
    marks = _shrink(((np.abs(across - 0.08) < 0.018) & (np.mod(away * 2.2, 1.0) < 0.55)).astype(np.float32))
    road = road + rng.normal(0, 7, road.shape[:2]).astype(np.float32)[..., None]
    road = road + (cloudy(rng, height - horizon, width, 34, stretch=2)[..., None] - 0.5) * 34
    road = _blend(road, _colour((226, 222, 206)), marks * np.float32(0.7))
    kerb = max(4, round(height * 0.05))
    road[:kerb] = road[:kerb] * 0.35 + _colour((196, 190, 180)) * 0.65
    road[kerb - 1 : kerb + 1] *= 0.72
    return Backdrop(np.concatenate([pixels[:horizon], road]), horizon)


def _facade(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: tuple[float, float, float, float], wall: Colour
) -> None:
    """A distant building with rows of windows; coordinates in final pixels, painted three times as large."""
    left, top, right, bottom = (value * 3 for value in box)
    draw.rectangle((left, top, right, bottom), fill=wall)
    draw.rectangle((left, top, right, top + 6), fill=darker(wall, 0.25))
    columns, rows = max(2, int((right - left) / 36)), max(1, int((bottom - top) / 44))
    for row in range(rows):
        for column in range(columns):
            x = left + (column + 0.5) * (right - left) / columns
            y = top + 14 + (row + 0.5) * (bottom - top - 14) / rows
            lit = rng.random() < 0.2
            pane = (246, 226, 160) if lit else darker(wall, 0.32)
            draw.rectangle((x - 7, y - 11, x + 7, y + 11), fill=pane)


def _room(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = round(height * float(rng.uniform(0.5, 0.6)))
    papers: Sequence[Colour] = (
        (196, 208, 196),
        (226, 206, 186),
        (184, 196, 212),
        (222, 198, 198),
        (206, 200, 178),
    )
    paper = papers[int(rng.integers(len(papers)))]
    wall = _ramp(lighter(paper, 0.2), darker(paper, 0.08), horizon, width)
    wall = wall + (_pattern(rng, horizon, width) * np.float32(rng.uniform(14, 26)))[..., None]
    skirting = max(4, round(height * 0.035))
    wall[-skirting:] = _colour(lighter(paper, 0.65))
    wall[-skirting - 1 : -skirting] *= 0.8
    across, away = _perspective(height, width, horizon)
    if rng.random() < 0.5:
        tiles = (np.floor(across * 5 + 100) + np.floor(away * 3.7)) % 2
        dark: Colour = [(120, 86, 74), (76, 96, 112), (104, 112, 96)][int(rng.integers(3))]
        floor = _blend(
            _colour(lighter(dark, 0.72)), _colour(lighter(dark, 0.18)), _shrink(tiles.astype(np.float32))
        )
    else:
        wood: Colour = [(176, 122, 76), (150, 104, 74), (196, 150, 104)][int(rng.integers(3))]
        plank = np.floor(across * 5 + 100)
        tone = (np.sin(plank * 12.9898) * 0.5).astype(np.float32)
        seams = (np.mod(across * 5 + 100, 1.0) < 0.04).astype(np.float32)
        grain = value_noise(rng, height - horizon, width, 9, 3)
        floor = _colour(wood) + ((_shrink(tone) + grain - 0.5) * 34 - _shrink(seams) * 34)[..., None]
    glow = np.exp(
        -(((np.arange(width, dtype=np.float32) / width - float(rng.uniform(0.2, 0.8))) / 0.35) ** 2)
    )
    pixels = np.concatenate([wall, floor]) * (0.88 + 0.2 * glow)[None, :, None]
    shadow = np.exp(-(np.abs(np.arange(height, dtype=np.float32) - horizon) / (0.05 * height)))
    return Backdrop((pixels * (1 - 0.22 * shadow)[:, None, None]).astype(np.float32), horizon)


def _pattern(rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """Wallpaper in [-1, 1]: stripes, dots or diamonds."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    step = float(rng.uniform(14, 26))
    kind = int(rng.integers(3))
    if kind == 0:
        wave: FloatImage = np.clip(np.sin(x * 2 * np.pi / step) * 3, -1, 1)
    elif kind == 1:
        wave = np.clip((np.cos(x * 2 * np.pi / step) + np.cos(y * 2 * np.pi / step) - 1.35) * 3, 0, 1)
    else:
        wave = (
            np.clip((np.abs(np.mod(x / step, 1) - 0.5) + np.abs(np.mod(y / step, 1) - 0.5) - 0.5) * 10, -1, 1)
            * 0.6
        )
    return wave.astype(np.float32)


PLACES: Final[Mapping[str, Callable[[np.random.Generator, int, int], Backdrop]]] = {
    "meadow": _meadow,
    "shore": _shore,
    "sea": _sea,
    "reef": _reef,
    "street": _street,
    "room": _room,
}
