"""Pictures of boxes and masks with labels that keep clear of each other; pure functions from pixels to pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from weaksam_cli.core import masks
from weaksam_cli.core.polygons import rings
from weaksam_cli.core.types import Detections

PALETTE = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#42d4f4", "#f032e6", "#ffe119", "#911eb4", "#bfef45", "#fabed4",
    "#469990", "#dcbeff", "#9a6324", "#fffac8", "#800000", "#aaffc3", "#808000", "#ffd8b1", "#000075", "#a9a9a9",
)  # fmt: skip
"""Colours that are told apart (Sasha Trubetskoy's list of twenty); a class has that of its index."""
_SHORTEST_SIDE = 320
_TEXT_SHARE = 26
"""The letters' height is this part of the geometric mean of the sides."""
_WIDEST_LABEL = 0.6
"""Of the image's width; a longer name is cut."""
_OPACITY = 110
"""Of a mask, of 255: what it is of stays visible."""
_SMOOTHING = 0.75
"""Pixels of the image that a mask's drawn outline may lie beside its steps."""
Box = tuple[float, float, float, float]


def colour(index: int) -> str:
    """The colour of a class."""
    return PALETTE[index % len(PALETTE)]


def ink(paint: str) -> str:
    """Black or white, whichever is read on a colour `#rrggbb`."""
    red, green, blue = (int(paint[start : start + 2], 16) for start in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def text_width(text: str, letters: int) -> float:
    """Pixels that a text of that size takes."""
    return _font(text, letters).getlength(printable(text))


def draw_detections(
    pixels: NDArray[np.uint8],
    found: Detections,
    class_names: Sequence[str],
    *,
    title: str = "",
    longest: int | None = None,
) -> NDArray[np.uint8]:
    """All boxes and masks of `found` with class and score, the best on top and first to choose where its label stands.

    Args:
        pixels: uint8 RGB (h, w, 3).
        found: boxes in the coordinates of `pixels`, masks of its size.
        class_names: in the order of the class indexes.
        title: a tag in the upper left corner.
        longest: pixels of the longer side of the answer, at most.

    Returns:
        uint8 RGB; larger than `pixels` where these are small.
    """
    canvas = Canvas(pixels, longest)
    canvas.title(title)
    order = np.argsort(-found.scores, kind="stable")
    for row in reversed(order):
        (mask,) = masks.decode(found.masks[row : row + 1], *pixels.shape[:2]) if found.masks else (None,)
        if mask is not None:
            canvas.mask(mask, colour(int(found.class_index[row])))
    for row in reversed(order):
        canvas.box(found.boxes[row], colour(int(found.class_index[row])), thin=found.masks is not None)
    for row in order:
        index = int(found.class_index[row])
        canvas.label(found.boxes[row], f"{class_names[index]} {found.scores[row]:.2f}", colour(index))
    return canvas.pixels()


@dataclass(frozen=True)
class Tag:
    """A label in its place.

    Attributes:
        place: xyxy, pixels of what is drawn.
        text: as it is written.
        at: left and top of the letters.
        font, paint: how it is written, and on which colour.
    """

    place: Box
    text: str
    at: tuple[float, float]
    font: ImageFont.FreeTypeFont
    paint: str


class Canvas:
    """An image, enlarged where it is small, to draw on in its own coordinates.

    Args:
        pixels: uint8 RGB (h, w, 3).
        longest: pixels of the longer side of what is drawn, at most.

    Attributes:
        tags: the labels so far; one covers those that came after it.
    """

    def __init__(self, pixels: NDArray[np.uint8], longest: int | None = None) -> None:
        sides = pixels.shape[:2]
        self._factor = max(1.0, _SHORTEST_SIDE / min(sides))
        if longest is not None:
            self._factor = min(self._factor, longest / max(sides))
        height, width = (max(1, round(side * self._factor)) for side in sides)
        self._drawn = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        self._pen = ImageDraw.Draw(self._drawn)
        self.tags: list[Tag] = []
        mean = math.sqrt(width * height)
        self._letters = max(11, round(mean / _TEXT_SHARE))
        self._line = max(2, round(mean / 250))

    def pixels(self) -> NDArray[np.uint8]:
        """What was drawn, uint8 RGB; a label covers those that came after it."""
        for tag in reversed(self.tags):
            self._pen.rectangle(tag.place, fill=tag.paint, outline="black")
            self._pen.text(tag.at, tag.text, fill=ink(tag.paint), font=tag.font, anchor="lt")
        return np.asarray(self._drawn)

    def mask(self, mask: NDArray[np.bool_], paint: str) -> None:
        """A mask (h, w) of the image's size: translucent, with an outline on a dark one."""
        stencil = Image.fromarray(mask).convert("L").resize(self._drawn.size, Image.Resampling.BILINEAR)
        self._drawn.paste(paint, (0, 0), stencil.point(lambda value: _OPACITY if value > 127 else 0))
        for ring in rings(mask, _SMOOTHING):
            points = [(x * self._factor, y * self._factor) for x, y in (*ring.tolist(), ring[0].tolist())]
            self._pen.line(points, "black", self._line + 2, joint="curve")
            self._pen.line(points, paint, self._line, joint="curve")

    def box(self, box: NDArray[np.float32], paint: str, *, thin: bool = False) -> None:
        """An outline in a colour, on a dark one that shows on any ground; thin beside a mask, which says more."""
        left, top, right, bottom = self._inside(box)
        if thin:
            self._pen.rectangle((left, top, right, bottom), outline=paint, width=1)
            return
        self._pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=self._line + 2)
        self._pen.rectangle((left, top, right, bottom), outline=paint, width=self._line)

    def label(self, box: NDArray[np.float32], text: str, paint: str, widest: float = _WIDEST_LABEL) -> None:
        """A tag at a box, see `free_place`; a text that is wider than a share of the image is cut in its middle."""
        font = _font(text, self._letters)
        shown = self._cut(printable(text), font, widest * self._drawn.width)
        left, top, right, bottom = self._pen.textbbox((0, 0), shown, font=font, anchor="lt")
        pad = max(2, self._letters // 6)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        sides = (self._drawn.width - 1, self._drawn.height - 1)
        place = free_place(self._inside(box), (width, height), sides, [tag.place for tag in self.tags])
        at = (place[0] + pad - left, place[1] + pad - top)
        self.tags.append(Tag(place, shown, at, font, paint))

    def dot(self, x: int, y: int, paint: str, text: str) -> None:
        """A disc on a pixel with a tag beside it; none for no text."""
        across, down = (x + 0.5) * self._factor, (y + 0.5) * self._factor
        radius = 2 * self._line
        self._pen.circle((across, down), radius, outline="black", fill=paint, width=1)
        around = np.asarray((across - radius, down - radius, across + radius, down + radius), np.float32)
        if text:
            self.label(around / np.float32(self._factor), text, paint)

    def title(self, text: str) -> None:
        """A tag in the upper left corner; none for no text."""
        if text:
            self.label(np.zeros(4, np.float32), text, "#222222", 0.95)

    def _inside(self, box: NDArray[np.float32]) -> Box:
        """A box in the coordinates of what is drawn, where its outline is seen at the borders, too."""
        return scaled_box(box, self._factor, 0, (self._drawn.width - 1, self._drawn.height - 1))

    def _cut(self, text: str, font: ImageFont.FreeTypeFont, most: float) -> str:
        """`text` shortened in its middle: classes that differ at their ends, and the score, can be told apart."""
        shown, length = text, len(text)
        while length > 3 and font.getlength(shown) > most:
            length -= 1
            shown = shortened(text, length)
        return shown


def shortened(text: str, length: int) -> str:
    """`text` with at most so many letters, three or more; what is too much goes from its middle."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"


def scaled_box(box: NDArray[np.float32], factor: float, low: float, high: tuple[float, float]) -> Box:
    """A box in units `factor` times as fine, cut to the range from `low` to `high` (x, y), its sides in order."""
    left, top, right, bottom = (
        min(max(float(value) * factor, low), most) for value, most in zip(box, high * 2, strict=True)
    )
    return left, top, max(left, right), max(top, bottom)


def free_place(box: Box, size: tuple[float, float], sides: tuple[float, float], taken: Sequence[Box]) -> Box:
    """Where a label stands: the first place around its box that is free, else the one that hides least of the others.

    Args:
        box: what it belongs to, xyxy.
        size: its width and height.
        sides: width and height of the image, which it does not leave while it fits.
        taken: places of other labels, xyxy.

    Returns:
        xyxy: on the upper edge of the box, within it, at its lower edge, or along a side.
    """
    left, top, right, bottom = box
    width, height = size
    rows = [top - height, top, bottom, bottom - height]
    rows += [top + step * height for step in range(1, max(1, int((bottom - top) / height)))]
    best, least = (0.0, 0.0, width, height), math.inf
    for y, x in itertools.product(rows, (left, right - width)):
        x0 = min(max(x, 0), max(sides[0] - width, 0))
        y0 = min(max(y, 0), max(sides[1] - height, 0))
        place = (x0, y0, x0 + width, y0 + height)
        hidden = sum(_overlap(place, other) for other in taken)
        if hidden < least:
            best, least = place, hidden
        if not hidden:
            break
    return best


def sheet(tiles: Sequence[NDArray[np.uint8]], columns: int, gap: int = 8) -> NDArray[np.uint8]:
    """Images of any size side by side, in rows of `columns`, on white.

    Args:
        tiles: uint8 RGB, at least one.
        columns: of the sheet.
        gap: pixels between them.
    """
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    widths = [
        max(tile.shape[1] for tile in tiles[column::columns]) for column in range(min(columns, len(tiles)))
    ]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    whole = np.full(
        (sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (len(widths) - 1), 3), 255, np.uint8
    )
    for number, row in enumerate(rows):
        top = sum(heights[:number]) + gap * number
        for column, tile in enumerate(row):
            left = sum(widths[:column]) + gap * column
            whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return whole


def coloured(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map (h, w) with values in [0, 1] as uint8 RGB, blue where it is low and red where it is high."""
    from matplotlib import colormaps

    rgb: NDArray[np.uint8] = (colormaps["turbo"](np.clip(heat, 0, 1))[..., :3] * 255).astype(np.uint8)
    return rgb


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map with values in [0, 1] over the image of its size (h, w), see `coloured`."""
    mixed: NDArray[np.uint8] = (0.5 * pixels + 0.5 * coloured(heat)).astype(np.uint8)
    return mixed


def printable(text: str) -> str:
    """`text` in one line, without what turns the direction of writing or has no form."""
    return "".join(character if character.isprintable() else "·" for character in text)


def letters_are_missing(text: str) -> bool:
    """Does no font of this machine have all letters of `text`? Boxes stand in their place then."""
    return not _has_letters(_font_file(frozenset(printable(text))), frozenset(printable(text)))


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    return max(width, 0) * max(min(one[3], other[3]) - max(one[1], other[1]), 0)


def _font(text: str, letters: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(frozenset(printable(text))), letters)


@cache
def _font_file(letters: frozenset[str]) -> str:
    """DejaVu, which matplotlib brings (Latin, Greek, Cyrillic, Arabic), else a font of this machine that has all letters."""
    from matplotlib import get_data_path

    usual = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    if _has_letters(usual, letters):
        return usual
    from matplotlib.font_manager import fontManager

    # Last Resort has a sign for every script, and no letters.
    found = {item.fname for item in fontManager.ttflist if item.style == "normal" and item.weight == 400}
    files = sorted(file for file in found if "LastResort" not in file)
    return next((file for file in files if _has_letters(file, letters)), usual)


@cache
def _has_letters(file: str, letters: frozenset[str]) -> bool:
    from matplotlib.ft2font import FT2Font

    return {ord(letter) for letter in letters} <= FT2Font(file).get_charmap().keys()
