"""Scenes of the demo: which things stand where, painted, and which pixels belong to which object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from weaksam_cli.data.demo.brush import INK, SCALE, Brush, Canvas, ellipse
from weaksam_cli.data.demo.places import PLACES
from weaksam_cli.data.demo.things import CLASS_NAMES, CLASSES, CLUTTER, LOOKS, Look

Split = Literal["trainval", "test"]
Rng = np.random.Generator
SIZES: Final = ((240, 320), (216, 288), (192, 256), (240, 320), (224, 300), (320, 240), (288, 216))
"""Heights and widths; two of seven images stand upright."""
SMALLEST, LARGEST = 34.0, 205.0
"""Bounds of an object's size in pixels (a class's height is its `tall` times that): a factor of more than six."""
LEAST_VISIBLE, DIFFICULT_VISIBLE = 0.15, 0.5
"""Shares of an object's pixels: more hidden than the first is not annotated, than the second is difficult."""
LEAST_PIXELS, DIFFICULT_PIXELS = 60, 330


@dataclass(frozen=True)
class DemoObject:
    """An annotated object.

    Attributes:
        class_name: one of `CLASS_NAMES`.
        box: float32 (4,), xyxy pixel edges, tight around the visible pixels.
        mask: bool (H, W), the visible pixels.
        difficult: tiny, or more than half hidden.
        truncated: reaches to the image's border.
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


@dataclass(frozen=True)
class Thing:
    """One thing to paint: a class or a kind of clutter, its foot (x, y) and height in pixels; a larger y is nearer."""

    kind: str
    x: float
    y: float
    height: float
    angle: float = 0.0
    flip: bool = False

    def overlap(self, other: Thing) -> float:
        """Overlap of the rough boxes as a share of the smaller one."""
        half, other_half = (LOOKS[thing.kind].half_width * thing.height for thing in (self, other))
        wide = min(self.x + half, other.x + other_half) - max(self.x - half, other.x - other_half)
        tall = min(self.y, other.y) - max(self.y - self.height, other.y - other.height)
        return max(wide, 0) * max(tall, 0) / (2 * min(half * self.height, other_half * other.height))


def make_demo(seed: int, n_trainval: int, n_test: int) -> Iterator[DemoImage]:
    """The images of the demo dataset, in order; the same for the same seed.

    The k-th image of a split depends on the seed, the split and k alone, so a larger dataset begins with the
    images of a smaller one. Every eight images feature each class once.
    """
    parts: tuple[tuple[Split, int, int], ...] = (("trainval", n_trainval, 0), ("test", n_test, n_trainval))
    for stream, (split, count, offset) in enumerate(parts):
        for index in range(count):
            image, objects = _make_image(seed, stream, index)
            yield DemoImage(f"{offset + index + 1:06d}", split, image, objects)


def _make_image(seed: int, stream: int, index: int) -> tuple[NDArray[np.uint8], tuple[DemoObject, ...]]:
    block, place_in_block = divmod(index, len(CLASS_NAMES))
    order = np.random.default_rng([seed, stream, 0, block]).permutation(len(CLASS_NAMES))
    class_name = CLASS_NAMES[order[place_in_block]]
    rng = np.random.default_rng([seed, stream, 1, index])
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    places = CLASSES[class_name].places
    place = str(rng.choice(list(places), p=list(places.values())))
    backdrop, horizon = PLACES[place](rng, (height * SCALE, width * SCALE))
    pixels = np.clip(np.rint(backdrop), 0, 255).astype(np.uint8)
    planner = Planner(rng, place, height, width, horizon * height)
    while True:  # until every object can be seen, which most plans allow
        canvas = Canvas(pixels.copy(), np.zeros(pixels.shape[:2], np.uint8))
        objects = _paint(rng, planner.plan(class_name), canvas)
        if any(item.class_name == class_name and not item.difficult for item in objects):
            return _photograph(rng, canvas.pixels), tuple(objects)


@dataclass(frozen=True)
class Planner:
    """Lays out one image of `height` x `width` pixels at `place`, whose ground begins at row `ground`."""

    rng: Rng
    place: str
    height: int
    width: int
    ground: float

    def plan(self, class_name: str) -> list[Thing]:
        """Everything in the image, from back to front: one object or a group, companions, clutter, what hides them."""
        manner, count = self.rng.random(), int(self.rng.choice([2, 2, 3, 3, 4]))
        if manner < 0.34:
            objects = self._row(class_name, count, 56, 180, [])
        else:
            objects = self._row(class_name, 1, 110 if manner < 0.64 else SMALLEST, LARGEST, [])
        for _ in range(int(self.rng.choice(4, p=[0.24, 0.36, 0.25, 0.15]))):
            other = class_name if self.rng.random() < 0.3 else self._choose(CLASSES)
            objects += self._row(other, 1, SMALLEST, 165, objects)
        clutter = [self._clutter() for _ in range(int(self.rng.integers(1, 5)))]
        hiders = [
            self._hider(item)
            for item in objects
            if item.height > 40 and item.kind != "fish" and self.rng.random() < 0.35
        ]
        return sorted([*clutter, *objects, *hiders], key=lambda thing: thing.y)

    def _row(self, kind: str, count: int, low: float, high: float, others: Sequence[Thing]) -> list[Thing]:
        """One object or several that touch, none over others by more than 40 %; nothing where there is no room."""
        look, rng = LOOKS[kind], self.rng
        for shrink in 0.95 ** np.arange(25):
            step = rng.uniform(0.74, 0.94)
            length = 2 * look.half_width * (1 + step * (count - 1))
            size = np.exp(rng.uniform(np.log(low), np.log(max(high * shrink, low * 1.1))))
            height = min(min(size, 0.9 * self.height) * look.tall, 0.98 * self.width / length)
            wide, free = 2 * look.half_width * height, self.width - length * height
            beyond = 0.28 * wide if rng.random() < 0.25 else 0.0
            left, foot = rng.uniform(-beyond, free + beyond), self._foot(kind, height)
            flip, sway = rng.random() < 0.5, 0.14 if kind in ("fish", "sailboat") else 0.045
            row: list[Thing] = []
            for x in left + wide * (0.5 + step * np.arange(count)):
                y, tall = foot + rng.normal(0, 0.025) * height, height * rng.uniform(0.9, 1.05)
                row.append(Thing(kind, x, y, tall, np.clip(rng.normal(0, sway), -0.35, 0.35), flip))
            if all(thing.overlap(other) < 0.4 for thing in row for other in others):
                return row
        return []

    def _choose(self, looks: Mapping[str, Look]) -> str:
        """A kind of thing that is found in the place."""
        weights = np.asarray([look.places.get(self.place, 0.0) for look in looks.values()])
        return str(self.rng.choice(list(looks), p=weights / weights.sum()))

    def _foot(self, kind: str, height: float) -> float:
        """Row of the foot: larger things stand nearer; fish in the water are anywhere."""
        if self.place == "reef" and kind == "fish":
            return float(self.rng.uniform(height + 4, max(self.height * 0.9, height + 8)))
        near = np.clip((height / LOOKS[kind].tall - SMALLEST) / (LARGEST - SMALLEST), 0, 1) ** 0.75
        return float(self.ground + 6 + near * (self.height - self.ground - 10))

    def _clutter(self) -> Thing:
        kind, near, rng = self._choose(CLUTTER), self.rng.uniform(0, 0.55), self.rng
        height = rng.uniform(0.1, 0.3) * self.height * LOOKS[kind].tall * (0.55 + near)
        y = self.ground + 3 + near * (self.height - self.ground)
        return Thing(kind, rng.uniform(0, self.width), y, height, flip=rng.random() < 0.5)

    def _hider(self, target: Thing) -> Thing:
        height = target.height * self.rng.uniform(0.26, 0.52)
        x = target.x + self.rng.uniform(-0.75, 0.75) * LOOKS[target.kind].half_width * target.height
        return Thing(self._choose(CLUTTER), x, target.y + self.rng.uniform(1, 4) + 0.05 * height, height)


def _paint(rng: Rng, things: Sequence[Thing], canvas: Canvas) -> list[DemoObject]:
    """Paint the things from back to front; no objects at all when one of them is hidden too far."""
    red, green, blue = canvas.pixels.mean(axis=(0, 1))
    full: dict[int, int] = {}
    for number, thing in enumerate(things, start=1):
        air = ((red, green, blue), 0.2 * max(0.0, 1 - thing.height / 110))
        if thing.kind != "fish":
            _shadow(canvas, thing)
        owner = number if thing.kind in CLASSES else 0
        brush = Brush(canvas, owner, thing.x, thing.y, thing.height, thing.angle, thing.flip, air)
        LOOKS[thing.kind].draw(brush, rng)
        if owner:
            full[number] = int((canvas.owner == owner).sum()) // SCALE**2
    size = canvas.owner.shape[1] // SCALE, canvas.owner.shape[0] // SCALE
    objects: list[DemoObject] = []
    for number, pixels in full.items():
        share = cv2.resize((canvas.owner == number).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        item = _object(things[number - 1].kind, share > 0.5, pixels)
        if item is None:
            return []
        objects.append(item)
    return objects


def _shadow(canvas: Canvas, thing: Thing) -> None:
    """A soft dark patch on the ground, a little to the right of the foot."""
    brush = Brush(canvas, None, thing.x, thing.y, thing.height)
    for grow in (1.15, 1.0, 0.85, 0.7, 0.5):
        half = LOOKS[thing.kind].half_width * grow
        brush.shape(ellipse(0.06 * half, 0.01, half, 0.09 * grow), INK, shade=0, outline=False, opacity=0.11)


def _object(class_name: str, mask: NDArray[np.bool_], full: int) -> DemoObject | None:
    """The annotation of a painted thing, or None when too little of it is to be seen."""
    visible = int(mask.sum())
    if visible < max(LEAST_VISIBLE * full, LEAST_PIXELS):
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    truncated = box[:2].min() == 0 or box[2] == mask.shape[1] or box[3] == mask.shape[0]
    difficult = visible < DIFFICULT_VISIBLE * full or visible < DIFFICULT_PIXELS
    return DemoObject(class_name, box, mask, difficult, bool(truncated))


def _photograph(rng: Rng, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At its final size, with light falling off to the corners, a slight cast and grain, as a camera gives."""
    height, width = pixels.shape[0] // SCALE, pixels.shape[1] // SCALE
    image = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image *= (1.1 - 0.1 * (x**2 + y**2))[..., None] * (1 + rng.normal(0, 0.025, 3))
    image += rng.normal(0, 3.2, (height, width, 1)) + rng.normal(0, 1.2, (height, width, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
