"""Average precision of masks: COCO's, and VOC's as is usual in weakly supervised instance segmentation (spec 07 §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field

from weaksam_cli.core.masks import areas
from weaksam_cli.core.types import Detections
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.coco_ap import areas_or, coco_ap, coco_dataset, coco_results
from weaksam_cli.eval.mask_matching import MaskSettings, Sizes, best_mask_overlaps, masks_of, run_lengths
from weaksam_cli.eval.matching import matched
from weaksam_cli.eval.voc_ap import average_precisions

MASK_THRESHOLDS: Final = (0.25, 0.5, 0.7, 0.75)
"""IoU thresholds of the paper's table of VOC 2012."""
MaskProtocol = Literal["coco", "voc"]


class MaskApSettings(MaskSettings):
    """How the average precision of masks is counted.

    Attributes:
        mask_ap: protocols. `coco`: COCOeval's 101 points, at most 100 masks an image and class. `voc`: the area under the
            curve, by the rule of chainercv. The paper does not say which is its own.
    """

    mask_ap: tuple[MaskProtocol, ...] = Field(default=("coco", "voc"), max_length=2)


def evaluate(case: Case, settings: MaskApSettings) -> list[Metric]:
    """AP at the paper's thresholds by each protocol, and COCO's mean over .50:.05:.95, by size too; none without masks."""
    compared = masks_of(case, settings)
    if compared is None:
        return []
    found: list[Metric] = []
    for protocol in settings.mask_ap:
        by_name = (_coco if protocol == "coco" else _voc)(case, *compared)
        found += [case.per_class(f"{name} ({protocol})", figure) for name, figure in by_name.items()]
    return found


def _coco(case: Case, truth: Truth, detections: Mapping[str, Detections]) -> dict[str, PerClass]:
    dataset, numbers = coco_mask_dataset(truth, case.class_names, case.sizes)
    results = coco_mask_results(detections, numbers, case.sizes)
    figures = coco_ap(dataset, results, kind="segm", more=MASK_THRESHOLDS)
    sized = {f"mask AP {size}": figure for size, figure in figures.of_size.items()}
    return {"mask AP": figures.ap, **_at({value: figures.at[value] for value in MASK_THRESHOLDS}), **sized}


def _voc(case: Case, truth: Truth, detections: Mapping[str, Detections]) -> dict[str, PerClass]:
    return _at(mask_ap_voc(truth, detections, case.class_names, case.sizes))


def _at(figures: Mapping[float, PerClass]) -> dict[str, PerClass]:
    return {f"mask AP{100 * value:.0f}": figure for value, figure in figures.items()}


def mask_ap_voc(
    truth: Truth,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    sizes: Sizes,
    *,
    thresholds: Sequence[float] = MASK_THRESHOLDS,
) -> dict[float, PerClass]:
    """Area under the precision-recall curve of masks, per class, at every IoU threshold; equality counts.

    A mask stands or falls with the object of its class that it overlaps most, as in chainercv's
    `eval_instance_segmentation_voc`; objects that are flagged count neither way.

    Args:
        truth: image key to objects, all with masks.
        detections: image key to detections with masks; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.
        sizes: of the images.
        thresholds: of IoU.

    Raises:
        UserError: for masks of an image that the ground truth does not hold.
    """
    overlaps, _ = best_mask_overlaps(truth, detections, len(class_names), sizes)
    return {
        threshold: average_precisions(
            matched(overlaps, overlaps.best >= threshold, len(class_names)), class_names, "area"
        )
        for threshold in thresholds
    }


def coco_mask_dataset(
    truth: Truth, class_names: Sequence[str], sizes: Sizes
) -> tuple[dict[str, Any], dict[str, int]]:
    """`coco_dataset` with masks: areas are the annotation's, else the mask's."""
    dataset, numbers = coco_dataset(truth, class_names)
    for image, key in zip(dataset["images"], numbers, strict=True):
        image["height"], image["width"] = sizes[key]
    annotations = iter(dataset["annotations"])
    for key, objects in truth.items():
        drawn = run_lengths(objects, sizes[key])
        pixels = areas([mask["counts"] for mask in drawn], *sizes[key]).astype(np.float64)
        for mask, size in zip(drawn, areas_or(objects, pixels).tolist(), strict=True):
            next(annotations).update(segmentation=mask, area=size)
    return dataset, numbers


def coco_mask_results(
    detections: Mapping[str, Detections], image_numbers: Mapping[str, int], sizes: Sizes
) -> list[dict[str, Any]]:
    """Masks as COCO results, without boxes: pycocotools would take the box's area for that of the mask.

    Raises:
        UserError: for detections of an image without a number.
    """
    boxed = coco_results(detections, image_numbers)
    drawn = [
        mask
        for key in image_numbers
        if key in detections
        for mask in run_lengths(detections[key], sizes[key])
    ]
    return [
        {**{name: value for name, value in item.items() if name != "bbox"}, "segmentation": mask}
        for item, mask in zip(boxed, drawn, strict=True)
    ]
