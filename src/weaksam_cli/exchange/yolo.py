"""YOLO as ultralytics reads it: `data.yaml`, and for `images/a/b.jpg` the text file `labels/a/b.txt`.

A line is `class x y w h`: the class counted from 0, the box's centre and size as fractions of the image's sides, and with
`--scores` the score, as predictions have it; who trains on such files wants lines of five. Where there are masks, every line
is `class x y x y ...`, the outline of an object, its parts and holes joined (`core.polygons`); the corners of its box where
it has no mask, as Ultralytics refuses files that have lines of both kinds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, Row, not_held, stems
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"yolo": "fractions: centre, width, height, or outlines of masks"}
SUFFIX: Final = ""
TAKES: Final = frozenset({"scores", "images"})


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder; the images belong into it, beside the labels."""
    names, remarks = stems(annotated.images)
    pairs = list(zip(names, annotated.images, strict=True))
    outlined = annotated.masks > 0
    files = {
        f"labels/{name}.txt": text(image, scores=options.scores, outlined=outlined).encode()
        for name, image in pairs
    }
    images = {f"images/{name}{image.suffix}": image.path for name, image in pairs if image.path}
    if not options.scores:
        remarks += not_held(
            annotated, "lines for training have none (`weaksam export --scores` writes those of predictions)"
        )
    hints = [
        "data.yaml names the images as train and as val, which trainers ask for: name images of your own as val"
    ]
    if outlined:
        hints.insert(0, "the lines are outlines: train a model of the segment task on them")
    if options.images == "none":
        hints.insert(
            0,
            "to train on it, put the images into its folder images: `weaksam export --images link`, or copy",
        )
    content = {"train": "images", "val": "images", "names": dict(enumerate(annotated.classes))}
    files["data.yaml"] = yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode()
    return Written(files, annotated.boxes, remarks, images, hints)


def text(image: AnnotatedImage, *, scores: bool, outlined: bool = False) -> str:
    """The lines of an image, with outlines in the place of boxes where that is said."""
    lines = []
    for row in image.rows():
        values = _corners(row, image) if outlined else _centred(row, image)
        numbers = [str(row.class_index), *(f"{value:.10f}" for value in values)]
        is_scored = scores and row.score is not None
        lines.append(" ".join([*numbers, f"{row.score:.9g}"] if is_scored else numbers) + "\n")
    return "".join(lines)


def _centred(row: Row, image: AnnotatedImage) -> list[float]:
    left, top, width, height = row.fractions(image)
    return [left + width / 2, top + height / 2, width, height]


def _corners(row: Row, image: AnnotatedImage) -> list[float]:
    """x, y, x, y, ... of the mask's outline, else of the box."""
    left, top, right, bottom = row.box
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return [share for x, y in row.polygon(image) or corners for share in (x / image.width, y / image.height)]
