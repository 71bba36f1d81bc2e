"""FiftyOne's own detection datasets (`FiftyOneImageDetectionDataset`): `labels.json`, and `data/` or `data.json`.

Boxes are fractions of the image's sides. Without `--images`, `data.json` says where each image lies.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from weaksam_cli.exchange.annotated import (
    Annotated,
    AnnotatedImage,
    Options,
    json_bytes,
    masks_not_held,
    stems,
)
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"fiftyone": "fractions: left, top, width, height"}
SUFFIX: Final = ""
TAKES: Final = frozenset({"images"})
_DECIMALS: Final = 10


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder of two files, or one and the folder of images."""
    names, remarks = stems(annotated.images)
    remarks += masks_not_held(
        annotated, "this dataset has boxes alone (FiftyOne reads those of --format coco)"
    )
    pairs = list(zip(names, annotated.images, strict=True))
    paths = {name + image.suffix: image.path for name, image in pairs if image.path}
    # FiftyOne takes the suffix from each name of `data.json`, and not from those of `labels.json`.
    files = {}
    if options.images == "none":
        places = {name: os.path.abspath(path) for name, path in paths.items()}  # noqa: PTH100 - links are kept
        files["data.json"] = json_bytes(places)
    content = {
        "classes": list(annotated.classes),
        "labels": {name: _detections(image) for name, image in pairs},
    }
    files["labels.json"] = json_bytes(content)
    if unknown := len(pairs) - len(paths):
        told = f"the files of {unknown} images are not known, and FiftyOne shows nothing without them"
        remarks.append(f"{told}: write data.json yourself, name in labels.json -> path")
    manifest = ', data_path="data.json"' if options.images == "none" else ""
    kind = "fiftyone.types.FiftyOneImageDetectionDataset"
    hints = [f"open it with fiftyone.Dataset.from_dir({str(out)!r}, {kind}{manifest})"]
    images = {f"data/{name}": path for name, path in paths.items()}
    return Written(files, annotated.boxes, remarks, images, hints)


def _detections(image: AnnotatedImage) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for row in image.rows():
        box = [round(value, _DECIMALS) for value in row.fractions(image)]
        entry = {"label": row.class_index, "bounding_box": box}
        found.append(entry if row.score is None else {**entry, "confidence": row.score})
    return found
