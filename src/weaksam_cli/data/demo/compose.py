"""Images of the demo dataset: paints a planned scene and knows which pixels belong to which object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from weaksam_cli.data.demo.backdrops import paint_backdrop
from weaksam_cli.data.demo.canvas import Canvas, Sprite
from weaksam_cli.data.demo.clutter import CLUTTER
from weaksam_cli.data.demo.noise import FloatImage
from weaksam_cli.data.demo.scene import CLASS_NAMES, CLASSES, Placed, Planner, choose_place

Split = Literal["trainval", "test"]
SIZES: Final = ((240, 320), (216, 288), (192, 256), (240, 320), (224, 300), (320, 240), (288, 216))
"""Heights and widths; two of seven images stand upright."""

_LEAST_VISIBLE: Final = 0.15
_DIFFICULT_VISIBLE: Final = 0.5
_DIFFICULT_PIXELS: Final = 330
_ATTEMPTS: Final = 12


@dataclass(frozen=True)
class DemoObject:
    """An annotated object.

    Attributes:
        class_name: one of `CLASS_NAMES`.
        box: float32 (4,), xyxy pixel edges, tight around the visible pixels.
        mask: bool (H, W), the visible pixels.
        difficult: tiny, or more than half hidden or cut off.
        truncated: reaches beyond the image.
    """

    class_name: str
    box: NDArray[np.float32]
    mask: NDArray[np.bool_]
    difficult: bool
    truncated: bool


@dataclass(frozen=True)
class DemoImage:
    """An image with its objects.

    Attributes:
        key: six digits, counted over the whole dataset.
        split: "trainval" or "test".
        image: uint8 (H, W, 3), RGB.
        objects: at least one.
    """

    key: str
    split: Split
    image: NDArray[np.uint8]
    objects: tuple[DemoObject, ...]


def make_demo(seed: int, n_trainval: int = 120, n_test: int = 60) -> Iterator[DemoImage]:
    """The images of the demo dataset, in order; the same for the same seed.

    The k-th image of a split depends on the seed, the split and k alone, so a larger dataset begins with the
    images of a smaller one. Every eight images feature each class once.
    """
    parts: tuple[tuple[Split, int, int], ...] = (("trainval", n_trainval, 0), ("test", n_test, n_trainval))
    for stream, (split, count, offset) in enumerate(parts):
        for index in range(count):
            image, objects = make_image(seed, stream, index)
            yield DemoImage(f"{offset + index + 1:06d}", split, image, objects)


def make_image(seed: int, stream: int, index: int) -> tuple[NDArray[np.uint8], tuple[DemoObject, ...]]:
    """The `index`-th image of a stream: uint8 (H, W, 3) and its objects."""
    block, place_in_block = divmod(index, len(CLASS_NAMES))
    order = np.random.default_rng([seed, stream, 0, block]).permutation(len(CLASS_NAMES))
    class_name = CLASS_NAMES[order[place_in_block]]
    rng = np.random.default_rng([seed, stream, 1, index])
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    place = choose_place(rng, class_name)
    backdrop = paint_backdrop(place, rng, height, width)
    for attempt in range(_ATTEMPTS + 1):
        planner = Planner(rng, place, backdrop)
        things = planner.plan(class_name) if attempt < _ATTEMPTS else planner.alone(class_name)
        pixels, objects = _paint(rng, things, backdrop.pixels)
        if objects:
            break
    return _finish(rng, pixels), tuple(objects)


def _paint(
    rng: np.random.Generator, things: Sequence[Placed], backdrop: FloatImage
) -> tuple[FloatImage, list[DemoObject]]:
    """The scene and its objects; no objects at all when one of them is hidden too far."""
    height, width = backdrop.shape[:2]
    pixels = backdrop.copy()
    air: FloatImage = backdrop.mean(axis=(0, 1))
    owner = np.full((height, width), -1, dtype=np.int32)
    full: list[int] = []
    for index, thing in enumerate(things):
        sprite = _sprite(thing, rng)
        if not thing.floats:
            _shadow(pixels, thing)
        full.append(int((sprite.pixels[..., 3] >= 128).sum()))
        corner = round(thing.x - sprite.foot[0]), round(thing.y - sprite.foot[1])
        inside = _paste(pixels, _in_air(sprite, thing, air), corner)
        if inside is not None:
            window, solid = inside
            owner[window][solid] = index
    objects: list[DemoObject] = []
    for index, thing in enumerate(things):
        if thing.is_object:
            item = _object(thing, owner == index, full[index])
            if item is None:
                return pixels, []
            objects.append(item)
    return pixels, objects


def _sprite(thing: Placed, rng: np.random.Generator) -> Sprite:
    look = CLASSES[thing.kind] if thing.is_object else CLUTTER[thing.kind]
    canvas = Canvas(thing.height, look.half_width, angle=thing.angle, flip=thing.flip)
    look.draw(canvas, rng)
    return canvas.sprite()


def _in_air(sprite: Sprite, thing: Placed, air: FloatImage) -> FloatImage:
    """RGBA float32 of the sprite; far things take on the colour of the air between."""
    share = np.float32(0.2 * max(0.0, 1 - thing.height / 110))
    seen = sprite.pixels.astype(np.float32)
    seen[..., :3] += (air - seen[..., :3]) * share
    return seen


def _paste(
    pixels: FloatImage, sprite: FloatImage, corner: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """Paint a sprite with its upper left at `corner` (x, y); gives the window it fell into and its solid pixels."""
    left, top = corner
    height, width = pixels.shape[:2]
    rows = slice(max(top, 0), min(top + sprite.shape[0], height))
    columns = slice(max(left, 0), min(left + sprite.shape[1], width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    part = sprite[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    under = pixels[rows, columns]
    pixels[rows, columns] = under + (part[..., :3] - under) * (part[..., 3:] / 255)
    return (rows, columns), part[..., 3] >= 128


def _shadow(pixels: FloatImage, thing: Placed) -> None:
    """A soft dark patch on the ground, a little to the right of the foot."""
    height, width = pixels.shape[:2]
    rx, ry = thing.half_width * 0.92, max(2.0, thing.height * 0.07)
    x, y = thing.x + 0.12 * rx, thing.y - 0.2 * ry
    rows = slice(max(round(y - 3.5 * ry), 0), min(round(y + 3.5 * ry) + 1, height))
    columns = slice(max(round(x - 2.5 * rx), 0), min(round(x + 2.5 * rx) + 1, width))
    down = (np.arange(rows.start, rows.stop, dtype=np.float32) - y) / (ry * 1.5)
    across = (np.arange(columns.start, columns.stop, dtype=np.float32) - x) / (rx * 1.1)
    distance = down[:, None] ** 2 + across[None, :] ** 2
    pixels[rows, columns] *= (1 - 0.5 * np.exp(-(distance**1.5) * 1.3))[..., None]


def _object(thing: Placed, mask: NDArray[np.bool_], full: int) -> DemoObject | None:
    """The annotation of a painted thing, or None when too little of it is to be seen."""
    visible = int(mask.sum())
    if visible < max(_LEAST_VISIBLE * full, 60):
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    touches = box[0] == 0 or box[1] == 0 or box[2] == mask.shape[1] or box[3] == mask.shape[0]
    difficult = visible < _DIFFICULT_VISIBLE * full or visible < _DIFFICULT_PIXELS
    return DemoObject(thing.kind, box, mask, difficult, bool(touches))


def _finish(rng: np.random.Generator, pixels: FloatImage) -> NDArray[np.uint8]:
    """Light falling off to the corners, a slight cast, a soft lens and grain, as a camera gives."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    lit = pixels * (1.1 - 0.1 * (x**2 + y**2))[..., None]
    lit = lit * (1 + rng.normal(0, 0.025, 3)).astype(np.float32)
    image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.35))
    grain = rng.normal(0, 3.2, (height, width, 1)) + rng.normal(0, 1.2, (height, width, 3))
    return np.clip(np.rint(np.asarray(image, dtype=np.float32) + grain), 0, 255).astype(np.uint8)
