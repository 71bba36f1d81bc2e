"""Results as COCO's evaluation server takes them: boxes and masks in files of their own, under the server's names.

`bbox/detections_<split>_<name>_results.json` and, where there are masks, `segm/detections_<split>_<name>_results.json`;
<name> is that of the output. Masks stand without boxes: beside one, pycocotools would take the box's area for the mask's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from weaksam_cli.errors import UserError
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, Row, json_bytes, require_scores
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"coco-results": "left, top, width, height in pixels"}
SUFFIX: Final = ""
_DECIMALS: Final = 2


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder with a file of boxes and one of masks.

    Raises:
        UserError: boxes without scores, images without the ids of their dataset.
    """
    require_scores(annotated)
    file = f"detections_{annotated.split}_{re.sub(r'[^A-Za-z0-9]+', '-', out.name)}_results.json"
    files = {
        f"bbox/{file}": json_bytes([{**entry, "bbox": _xywh(row)} for entry, _, row in _entries(annotated)])
    }
    if annotated.masks:
        files[f"segm/{file}"] = json_bytes(
            [
                {**entry, "segmentation": {"size": [image.height, image.width], "counts": row.mask.decode()}}
                for entry, image, row in _entries(annotated)
                if row.mask is not None
            ]
        )
    hint = f"the server takes each file as a zip of its name: (cd {out}/bbox && zip {file[:-5]}.zip {file})"
    return Written(files, annotated.boxes, hints=[hint])


def _entries(annotated: Annotated) -> Iterator[tuple[dict[str, Any], AnnotatedImage, Row]]:
    """What an entry of either file says of each box, with the ids of the dataset."""
    class_ids = annotated.class_ids or range(1, len(annotated.classes) + 1)
    for image in annotated.images:
        if image.id is None:
            remedy = "Give --labels labels/<split>.json, which has their ids"
            raise UserError(f"image {image.key!r} has no id of its dataset", remedy=remedy)
        for row in image.rows():
            entry = {"image_id": image.id, "category_id": class_ids[row.class_index], "score": row.score}
            yield entry, image, row


def _xywh(row: Row) -> list[float]:
    left, top, right, bottom = row.box
    return [round(value, _DECIMALS) for value in (left, top, right - left, bottom - top)]
