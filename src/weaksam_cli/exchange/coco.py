"""COCO's json of instances: images, categories, annotations with `score`; what pycocotools reads.

Masks are run lengths, which lose nothing; pycocotools reads them, and detectron2 with `INPUT.MASK_FORMAT: bitmask`.

Ids are those of the dataset, where it has some, so that detections and its own ground truth can be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from weaksam_cli.core.masks import areas
from weaksam_cli.exchange.annotated import Annotated, Options, json_bytes
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"coco": "left, top, width, height in pixels"}
SUFFIX: Final = ".json"
_DECIMALS: Final = 4


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A json of everything."""
    return Written({"": json_bytes(_contents(annotated))}, annotated.boxes)


def _contents(annotated: Annotated) -> dict[str, Any]:
    """The document."""
    own = [image.id for image in annotated.images if image.id is not None]
    ids = own if len(own) == len(annotated.images) else list(range(1, len(annotated.images) + 1))
    class_ids = annotated.class_ids or range(1, len(annotated.classes) + 1)
    annotations: list[dict[str, Any]] = []
    for identifier, image in zip(ids, annotated.images, strict=True):
        for index, (left, top, right, bottom), score, mask in image.rows():
            width, height = right - left, bottom - top
            size = (image.height, image.width)
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": identifier,
                "category_id": class_ids[index],
                "bbox": [round(value, _DECIMALS) for value in (left, top, width, height)],
                "area": round(width * height, _DECIMALS) if mask is None else int(areas([mask], *size)[0]),
                "iscrowd": 0,
                "segmentation": [] if mask is None else {"size": list(size), "counts": mask.decode()},
            }
            annotations.append(entry if score is None else {**entry, "score": score})
    return {
        "info": {"description": f"{annotated.split}: boxes of weaksam"},
        "licenses": [],
        "images": [
            {
                "id": identifier,
                "file_name": image.file_name,
                "width": image.width,
                "height": image.height,
                "key": image.key,
            }
            for identifier, image in zip(ids, annotated.images, strict=True)
        ],
        "categories": [
            {"id": identifier, "name": name, "supercategory": ""}
            for identifier, name in zip(class_ids, annotated.classes, strict=True)
        ],
        "annotations": annotations,
    }
