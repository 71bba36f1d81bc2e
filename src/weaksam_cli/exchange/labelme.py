"""LabelMe: a JSON file an image, with rectangles of two corners; X-AnyLabeling reads the scores as well.

An object with a mask is one polygon, its parts and holes joined (`core.polygons`), which a person can correct.
`imagePath` leads from the file to its image. LabelMe finds the files by itself where they are written to the folder of
the images.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, Final

from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, json_bytes, stems
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"labelme": "two corners in pixels; polygons of masks"}
SUFFIX: Final = ""
TAKES: Final = frozenset({"images"})
_VERSION: Final = "5.5.0"
"""Of LabelMe, whose files these are like."""


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder of files, named as the images."""
    names, remarks = stems(annotated.images)
    files, images = {}, {}
    for name, image in zip(names, annotated.images, strict=True):
        own = name + image.suffix
        path = PurePosixPath(own).name
        if image.path and options.images == "none":
            path = os.path.relpath(image.path, (out / name).parent)
        elif image.path:
            images[own] = image.path
        files[f"{name}.json"] = json_bytes(_content(image, path, annotated.classes), indent=2)
    return Written(files, annotated.boxes, remarks, images)


def _content(image: AnnotatedImage, path: str, classes: tuple[str, ...]) -> dict[str, Any]:
    shapes = []
    for row in image.rows():
        left, top, right, bottom = row.box
        polygon = row.polygon(image)
        shape: dict[str, Any] = {
            "label": classes[row.class_index],
            "points": polygon or [[left, top], [right, bottom]],
            "group_id": None,
            "description": "",
            "shape_type": "polygon" if polygon else "rectangle",
            "flags": {},
        }
        shapes.append(shape if row.score is None else {**shape, "score": row.score})
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": path,
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }
