"""YOLO as ultralytics reads it: `data.yaml`, and for `images/a/b.jpg` the text file `labels/a/b.txt`.

A line is `class x y w h`: the class counted from 0, the box's centre and size as fractions of the image's sides, and with
`--scores` the score, as predictions have it; who trains on such files wants lines of five.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
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
    images = {
        f"images/{name}{PurePosixPath(image.file_name).suffix}": image.path
        for name, image in pairs
        if image.path
    }
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
    for index, (left, top, right, bottom), score in image.rows():
        centre = (left + right) / 2 / image.width, (top + bottom) / 2 / image.height
        values = (*centre, (right - left) / image.width, (bottom - top) / image.height)
        numbers = [str(index), *(f"{value:.10f}" for value in values)]
        lines.append(" ".join(numbers if score is None or not scores else [*numbers, f"{score:.9g}"]) + "\n")
    return "".join(lines)
