"""The README's first image: photographs, and the proposals that a command without any labels makes for them.

The photographs are four that the wheel of scikit-image holds (skimage/data), free of copyright: chelsea.png (CC0, Stefan van
der Walt), coffee.png (CC0, Rachel Michetti), rocket.jpg (public domain, SpaceX), astronaut.png (public domain, NASA).

pip download --no-deps scikit-image==0.26.0
for n in chelsea.png coffee.png rocket.jpg astronaut.png; do unzip -j scikit_image-*.whl skimage/data/$n -d photos; done
weaksam propose photos -o photos.h5 --recipe region-tree
python benchmarks/photographs.py photos photos.h5 docs/proposals.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from weaksam_cli.artifacts import open_artifact

NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
FIRST = 25
"""Boxes that are drawn of each image: those that the file has first."""
HEIGHT = 250
GAP = 6
COLOURS = ("#ff4b4b", "#ffd23f", "#3ddc97", "#4dabf7", "#f783ff", "#ff922b")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("proposals", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    with open_artifact(options.proposals) as artifact:
        tiles = [
            drawn(options.photos / name, artifact.rows(name, "boxes")[:FIRST].tolist()) for name in NAMES
        ]
    sheet = Image.new("RGB", (sum(tile.width + GAP for tile in tiles) - GAP, HEIGHT), "white")
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width + GAP
    sheet.save(options.output, quality=82, method=6)


def drawn(path: Path, boxes: list[list[float]]) -> Image.Image:
    photo = Image.open(path).convert("RGB")
    scale = HEIGHT / photo.height
    tile = photo.resize((round(photo.width * scale), HEIGHT), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(tile)
    for number, box in reversed(list(enumerate(boxes))):
        left, top, right, bottom = (round(value * scale) for value in box)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=COLOURS[number % len(COLOURS)], width=2)
    return tile


if __name__ == "__main__":
    main()
