"""Images of two shapes, anywhere: small enough to learn on in a test, and objects are a tenth of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, OBJECT = 160, 48
CLASSES = ("disc", "grate")
_OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def draw(number: int) -> tuple[Image.Image, list[tuple[str, int, int]]]:
    """An image with a disc, a grate, or both, anywhere apart, on clouds of grey; and name, column and row of each."""
    generator = np.random.default_rng(number)
    clouds = generator.integers(70, 150, (10, 10), dtype=np.uint8)
    sample = Image.fromarray(clouds).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
    shown = [CLASSES[: 1 + number % 2], CLASSES[1:]][number % 3 == 0]
    halves = generator.permutation(2)
    pen, objects = ImageDraw.Draw(sample), []
    for half, name in zip(halves, shown, strict=False):
        x = int(half) * SIDE // 2 + int(generator.integers(0, SIDE // 2 - OBJECT))
        y = int(generator.integers(0, SIDE - OBJECT))
        if name == "disc":
            pen.ellipse(
                (x, y, x + OBJECT - 1, y + OBJECT - 1), fill=(200, 60, 40), outline=(40, 10, 10), width=3
            )
        else:
            for column in range(x, x + OBJECT, 8):
                pen.rectangle((column, y, column + 3, y + OBJECT - 1), fill=(30, 40, 160))
        objects.append((name, x, y))
    return sample, objects


def write_images(folder: Path, count: int) -> None:
    """VOC layout, one split."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        sample, objects = draw(number)
        sample.save(folder / "JPEGImages" / f"{number:03d}.jpg", quality=95)
        boxes = "".join(_OBJECT.format(name, x + 1, y + 1, x + OBJECT, y + OBJECT) for name, x, y in objects)
        text = (
            f"<annotation><filename>{number:03d}.jpg</filename><size><width>{SIDE}</width><height>{SIDE}</height>"
            f"<depth>3</depth></size>{boxes}</annotation>"
        )
        (folder / "Annotations" / f"{number:03d}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{n:03d}\n" for n in range(count)))
