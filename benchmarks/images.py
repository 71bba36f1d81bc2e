"""The quick start's image: one image of a finished run through every stage.

python benchmarks/images.py runs/demo 000012 docs/pipeline.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from weaksam_cli.cli.drawing import draw_artifact

PANELS = (
    ("class activation maps", "cam/{split}.h5"),
    ("peak points", "prompts/{split}.h5"),
    ("proposals", "proposals/{split}.h5"),
    ("pseudo ground truth", "pgt/{split}.json"),
    ("retrained detector", "retrain/detections/{split}.json"),
)
HEIGHT = 240
WIDTH = 1320
CAPTION = 22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("image")
    parser.add_argument("output", type=Path)
    parser.add_argument("--split", default="trainval")
    options = parser.parse_args()
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (caption, pattern) in enumerate(PANELS):
            path = Path(folder) / f"{number}.png"
            artifact = options.run / pattern.format(split=options.split)
            draw_artifact(artifact, options.image, path, kinds=("fine",))
            image = Image.open(path).convert("RGB")
            size = round(image.width * HEIGHT / image.height), HEIGHT
            tile = Image.new("RGB", (size[0] + 6, HEIGHT + CAPTION), "white")
            tile.paste(image.resize(size, Image.Resampling.LANCZOS), (0, CAPTION))
            ImageDraw.Draw(tile).text((2, 3), caption, fill="black", font_size=14)
            tiles.append(tile)
    places, left, top = [], 0, 0
    for tile in tiles:
        if left and left + tile.width > WIDTH:
            left, top = 0, top + tile.height
        places.append((left, top))
        left += tile.width
    right = max(place[0] + tile.width for place, tile in zip(places, tiles, strict=True))
    sheet = Image.new("RGB", (right, top + HEIGHT + CAPTION), "white")
    for place, tile in zip(places, tiles, strict=True):
        sheet.paste(tile, place)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
