"""The door to ground truth, for `eval` and `report` alone: no other stage may import this module."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.data.coco_ground_truth import read_coco_ground_truth
from weaksam_cli.data.image_labels import detect_layout
from weaksam_cli.data.types import GroundTruthSplit, Layout, ReadOptions
from weaksam_cli.data.voc_ground_truth import read_voc_ground_truth
from weaksam_cli.errors import UserError


def read_ground_truth(
    source: Path, split: str, options: ReadOptions, *, layout: Layout | None = None, masks: bool = False
) -> GroundTruthSplit:
    """Annotated objects of one split, difficult ones flagged; with `masks`, their compressed RLE too.

    Raises:
        UserError: as the reader of the layout, and for the folder layout, which has labels alone.
    """
    chosen = layout or detect_layout(source)
    if chosen == "voc":
        return read_voc_ground_truth(source, split, options, masks=masks)
    if chosen == "coco":
        return read_coco_ground_truth(source, split, options, masks=masks)
    raise UserError(
        "folders and CSV tables hold labels but no boxes, so there is no ground truth",
        where=str(source),
        remedy="Give a VOC folder or COCO json with boxes to evaluate against",
    )
