"""Which things stand where in an image: classes, groups, companions, clutter and what hides what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from weaksam_cli.data.demo.backdrops import Backdrop
from weaksam_cli.data.demo.canvas import Canvas
from weaksam_cli.data.demo.clutter import CLUTTER
from weaksam_cli.data.demo.swimmers import draw_fish, draw_sailboat
from weaksam_cli.data.demo.things import draw_car, draw_flower, draw_house, draw_owl, draw_robot, draw_teapot

SMALLEST: Final = 34.0
LARGEST: Final = 205.0
"""Bounds of an object's size in pixels (a class's height is its `tall` times that): a factor of more than six."""


@dataclass(frozen=True)
class ClassLook:
    """How a class is painted and where it is found.

    Attributes:
        draw: the brush work.
        half_width: in units of its height.
        tall: height as a share of its size, so that a car of some size is lower than a robot of that size.
        places: weights of the places it is found in.
    """

    draw: Callable[[Canvas, np.random.Generator], None]
    half_width: float
    tall: float
    places: Mapping[str, float]


CLASSES: Final[Mapping[str, ClassLook]] = {
    "car": ClassLook(draw_car, 1.2, 0.52, {"street": 0.55, "meadow": 0.25, "shore": 0.2}),
    "fish": ClassLook(draw_fish, 1.1, 0.54, {"reef": 0.72, "shore": 0.14, "room": 0.14}),
    "flower": ClassLook(draw_flower, 0.36, 1.0, {"meadow": 0.4, "room": 0.35, "street": 0.15, "shore": 0.1}),
    "house": ClassLook(draw_house, 0.56, 1.0, {"meadow": 0.5, "shore": 0.25, "street": 0.15, "reef": 0.1}),
    "owl": ClassLook(draw_owl, 0.4, 0.86, {"meadow": 0.45, "room": 0.3, "street": 0.25}),
    "robot": ClassLook(draw_robot, 0.45, 0.96, {"street": 0.3, "room": 0.3, "meadow": 0.2, "reef": 0.2}),
    "sailboat": ClassLook(draw_sailboat, 0.6, 0.94, {"sea": 0.62, "shore": 0.2, "room": 0.18}),
    "teapot": ClassLook(draw_teapot, 0.9, 0.64, {"room": 0.55, "shore": 0.2, "meadow": 0.25}),
}
CLASS_NAMES: Final = tuple(CLASSES)

_CLUTTER_OF: Final[Mapping[str, Sequence[str]]] = {
    "meadow": ("bush", "tree", "tree", "rock", "fence", "crate", "barrel", "ball"),
    "shore": ("rock", "rock", "ball", "crate", "barrel"),
    "sea": ("buoy", "buoy", "barrel", "rock"),
    "reef": ("weed", "weed", "coral", "rock", "barrel"),
    "street": ("crate", "barrel", "ball", "fence", "tree"),
    "room": ("ball", "crate", "barrel", "ball"),
}
_HIDING: Final[Mapping[str, Sequence[str]]] = {
    "meadow": ("bush", "fence", "rock"),
    "shore": ("rock", "crate", "barrel"),
    "sea": ("buoy", "barrel"),
    "reef": ("weed", "coral", "rock"),
    "street": ("crate", "barrel", "fence"),
    "room": ("crate", "ball", "barrel"),
}


@dataclass(frozen=True)
class Placed:
    """One thing to paint.

    Attributes:
        kind: a class name, or a kind of clutter.
        is_object: which of the two.
        x: column of its foot.
        y: row of its foot; what has a larger one is painted later.
        height: pixels.
        angle: radians, counter-clockwise.
        flip: mirrored.
        floats: hangs in the water, so it throws no shadow.
    """

    kind: str
    is_object: bool
    x: float
    y: float
    height: float
    angle: float
    flip: bool
    floats: bool = False

    @property
    def half_width(self) -> float:
        """Half of its width in pixels."""
        look = CLASSES[self.kind].half_width if self.is_object else CLUTTER[self.kind].half_width
        return look * self.height

    def overlap(self, other: Placed) -> float:
        """Overlap of the rough boxes as a share of the smaller one."""
        wide = min(self.x + self.half_width, other.x + other.half_width)
        wide -= max(self.x - self.half_width, other.x - other.half_width)
        tall = min(self.y, other.y) - max(self.y - self.height, other.y - other.height)
        smaller = min(self.half_width * self.height, other.half_width * other.height) * 2
        return max(wide, 0.0) * max(tall, 0.0) / smaller


def choose_place(rng: np.random.Generator, class_name: str) -> str:
    """A place where the class is found."""
    places = CLASSES[class_name].places
    weights = np.asarray(list(places.values()))
    return str(rng.choice(list(places), p=weights / weights.sum()))


class Planner:
    """Lays out one image: `width` x `height` pixels, at `place`, whose ground is that of `backdrop`."""

    def __init__(self, rng: np.random.Generator, place: str, backdrop: Backdrop) -> None:
        self.rng = rng
        self.place = place
        self.height, self.width = backdrop.pixels.shape[:2]
        self.floating = backdrop.floating
        self.ground = round(self.height * 0.84) if backdrop.floating else backdrop.horizon
        self.objects: list[Placed] = []

    def plan(self, class_name: str) -> list[Placed]:
        """Everything in the image, from back to front; `class_name` is certainly there."""
        manner = self.rng.random()
        if manner < 0.3:
            self._single(class_name, large=True)
        elif manner < 0.64:
            self._group(class_name, int(self.rng.choice([2, 2, 3, 3, 4])))
        else:
            self._single(class_name, large=False)
        for _ in range(int(self.rng.choice([0, 1, 1, 2, 3], p=[0.24, 0.26, 0.2, 0.2, 0.1]))):
            if len(self.objects) < 5:
                self._single(self._companion(class_name), large=False)
        things = [*self._clutter(), *self.objects, *self._hiders()]
        return sorted(things, key=lambda thing: thing.y)

    def alone(self, class_name: str) -> list[Placed]:
        """The class and nothing else."""
        self.objects.clear()
        while not self.objects:
            self._single(class_name, large=True)
        return self.objects

    def _companion(self, class_name: str) -> str:
        if self.rng.random() < 0.3:
            return class_name
        weights = np.asarray([look.places.get(self.place, 0.0) for look in CLASSES.values()])
        return str(self.rng.choice(CLASS_NAMES, p=weights / weights.sum()))

    def _size(self, class_name: str, low: float, high: float, room: float) -> float:
        """Height in pixels for a size drawn evenly on a log scale, no wider than `room`."""
        look = CLASSES[class_name]
        size = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        size = min(size, 0.9 * self.height)
        return min(size * look.tall, room / (2 * look.half_width))

    def _foot(self, kind: str, height: float) -> float:
        """Row of the foot: on the ground larger things stand nearer, in the water fish are anywhere."""
        if self.floating and kind == "fish":
            return float(self.rng.uniform(height + 4, max(self.height * 0.9, height + 8)))
        tall = CLASSES[kind].tall if kind in CLASSES else 0.5
        near = float(np.clip((height / tall - SMALLEST) / (LARGEST - SMALLEST), 0, 1)) ** 0.75
        row = self.ground + 6 + near * (self.height - self.ground - 10) + float(self.rng.normal(0, 3))
        return float(np.clip(row, self.ground + 3, self.height + 0.06 * height))

    def _place(self, kind: str, height: float, x: float, y: float) -> Placed:
        floats = self.floating and kind == "fish"
        sway = 0.16 if floats or self.place == "sea" else 0.045
        angle = float(np.clip(self.rng.normal(0, sway), -0.35, 0.35))
        return Placed(kind, True, x, y, height, angle, bool(self.rng.random() < 0.5), floats)

    def _single(self, class_name: str, *, large: bool) -> None:
        low, high = (110.0, LARGEST) if large else (SMALLEST, 165.0)
        for _ in range(25):
            height = self._size(class_name, low, high, self.width * 0.96)
            half = CLASSES[class_name].half_width * height
            margin = half * (0.45 if self.rng.random() < 0.1 else 0.95)
            span = (
                (margin, self.width - margin)
                if margin < self.width / 2
                else (self.width / 2 - 1, self.width / 2 + 1)
            )
            thing = self._place(
                class_name, height, float(self.rng.uniform(*span)), self._foot(class_name, height)
            )
            if all(thing.overlap(other) < 0.4 for other in self.objects):
                self.objects.append(thing)
                return
            high = max(low * 1.1, high * 0.93)

    def _group(self, class_name: str, count: int) -> None:
        look = CLASSES[class_name]
        step = float(self.rng.uniform(0.74, 0.94))
        height = self._size(class_name, 56.0, 180.0, self.width * 1.02 / (1 + step * (count - 1)))
        y = self._foot(class_name, height)
        wide = 2 * look.half_width * height
        total = wide * (1 + step * (count - 1))
        left = (
            float(self.rng.uniform(0, max(self.width - total, 1.0)))
            if total < self.width
            else (self.width - total) / 2
        )
        flip = bool(self.rng.random() < 0.5)
        for index in range(count):
            tall = height * float(self.rng.uniform(0.9, 1.06))
            x = left + wide / 2 + index * step * wide
            member = self._place(class_name, tall, x, y + float(self.rng.normal(0, 0.025 * height)))
            self.objects.append(
                Placed(class_name, True, x, member.y, tall, member.angle, flip, member.floats)
            )

    def _clutter(self) -> list[Placed]:
        things: list[Placed] = []
        for _ in range(int(self.rng.integers(1, 6))):
            kind = str(self.rng.choice(list(_CLUTTER_OF[self.place])))
            height = float(self.rng.uniform(0.1, 0.3)) * self.height * (1.9 if kind == "tree" else 1.0)
            if kind == "fence":
                height *= 0.6
            near = float(self.rng.uniform(0, 0.55))
            y = self.ground + 3 + near * (self.height - self.ground)
            things.append(
                self._thing(kind, height * (0.55 + near), float(self.rng.uniform(0, self.width)), y)
            )
        return things

    def _hiders(self) -> list[Placed]:
        things: list[Placed] = []
        for target in self.objects:
            if target.height < 40 or target.floats or self.rng.random() > 0.3:
                continue
            kind = str(self.rng.choice(list(_HIDING[self.place])))
            height = target.height * float(self.rng.uniform(0.26, 0.52))
            x = target.x + float(self.rng.uniform(-0.75, 0.75)) * target.half_width
            things.append(
                self._thing(kind, height, x, target.y + float(self.rng.uniform(1, 4)) + 0.05 * height)
            )
        return things

    def _thing(self, kind: str, height: float, x: float, y: float) -> Placed:
        return Placed(kind, False, x, y, height, 0.0, bool(self.rng.random() < 0.5))
