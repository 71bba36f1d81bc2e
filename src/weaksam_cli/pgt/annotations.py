"""Pseudo ground truth as COCO annotations (spec 05 §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weaksam_cli.core.boxes import area, xyxy_to_xywh
from weaksam_cli.pgt.table import DetectionTable


def coco_annotations(
    table: DetectionTable, *, image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One COCO annotation a row, in table order, numbered from 0.

    The published code writes `image_id`, `bbox`, `category_id` and `id`; trainers that read the file with
    pycocotools or detectron2 need `area` and `iscrowd` as well, and `score` is the row's score.

    Args:
        table: pseudo boxes.
        image_ids: COCO's number of every image that `table.image_index` points at.
        category_ids: COCO's number of every class that `table.class_index` points at.
    """
    return [
        {
            "id": number,
            "image_id": image_ids[image],
            "category_id": category_ids[category],
            "bbox": box,
            "area": size,
            "iscrowd": 0,
            "score": score,
        }
        for number, (image, category, box, size, score) in enumerate(
            zip(
                table.image_index.tolist(),
                table.class_index.tolist(),
                xyxy_to_xywh(table.boxes).tolist(),
                area(table.boxes).tolist(),
                table.scores.tolist(),
                strict=True,
            )
        )
    ]
