"""YOLO as ultralytics reads it: `data.yaml`, and for `images/a/b.jpg` the text file `labels/a/b.txt`.

A line is `class x y w h`: the class counted from 0, the box's centre and size as fractions of the image's sides, and with
`--scores` the score, as predictions have it; who trains on such files wants lines of five.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, not_held, stems
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"yolo": "fractions: centre, width, height"}
SUFFIX: Final = ""
TAKES: Final = frozenset({"scores", "images"})


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder; the images belong into it, beside the labels."""
    names, remarks = stems(annotated.images)
    pairs = list(zip(names, annotated.images, strict=True))
    files = {f"labels/{name}.txt": text(image, scores=options.scores).encode() for name, image in pairs}
    images = {f"images/{name}{image.suffix}": image.path for name, image in pairs if image.path}
    if not options.scores:
        remarks += not_held(annotated, "a line for training has none (--scores writes lines of predictions)")
    hints = [
        "data.yaml names the images as train and as val, which trainers ask for: name images of your own as val"
    ]
    if options.images == "none":
        hints.insert(0, "to train on it, put the images into it: --images link, or copy")
    content = {"train": "images", "val": "images", "names": dict(enumerate(annotated.classes))}
    files["data.yaml"] = yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode()
    return Written(files, annotated.boxes, remarks, images, hints)


def text(image: AnnotatedImage, *, scores: bool) -> str:
    """The lines of an image."""
    lines = []
    for row in image.rows():
        left, top, width, height = row.fractions(image)
        values = (left + width / 2, top + height / 2, width, height)
        numbers = [str(row.class_index), *(f"{value:.10f}" for value in values)]
        is_scored = scores and row.score is not None
        lines.append(" ".join([*numbers, f"{row.score:.9g}"] if is_scored else numbers) + "\n")
    return "".join(lines)
