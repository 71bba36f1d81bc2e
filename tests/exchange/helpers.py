"""Labels of a few images, and their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import inclusive_to_edges
from weaksam_cli.data.labels import Category, LabelledImage, Labels, LabelsFile, LabelsInfo
from weaksam_cli.exchange.formats import ImageBoxes

SIZE = (48, 64)
"""Height and width of every image."""


def labels(images: dict[str, int], *, classes: int = 6) -> Labels:
    """A split of the images key -> id; a key is the file's name, with .jpg where it has no suffix."""
    entries = [
        LabelledImage(
            id=identifier,
            key=key,
            file_name=key if "." in key else f"{key}.jpg",
            height=SIZE[0],
            width=SIZE[1],
            sha256="0",
            labels=None,
        )
        for key, identifier in images.items()
    ]
    info = LabelsInfo(format="weaksam/labels", format_version=1, dataset="d", split="trainval", role="train")
    categories = [Category(id=index + 1, name=f"class {index}") for index in range(classes)]
    file = LabelsFile(info=info, categories=categories, images=entries, annotations=[], failed=[])
    return Labels(Path("labels/trainval.json"), file, Path())


def image_boxes(name: object, inclusive: object, predicted_iou: object = None) -> ImageBoxes:
    """Boxes given as inclusive pixel indexes."""
    boxes = inclusive_to_edges(np.asarray(inclusive, np.float32).reshape(-1, 4))
    values: NDArray[np.float32] = np.full(len(boxes), np.nan, np.float32)
    return ImageBoxes(name, boxes, values if predicted_iou is None else np.asarray(predicted_iou, np.float32))
