"""COCO average precision, for boxes and masks (spec 07 §4, §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import area, xyxy_to_xywh
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.coco_engines import SIZES, CocoJson, Kind, coco_precision
from weaksam_cli.eval.matching import in_order

COCO_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""To the last bit as in pycocotools, where .9 is a little less."""


class CocoSettings(RecipeModel):
    """How COCO AP is counted.

    Attributes:
        coco_ap: compute it at all.
    """

    coco_ap: bool = True


def evaluate(case: Case, settings: CocoSettings) -> list[Metric]:
    """AP of boxes over IoU .50:.05:.95, at .50 and at .75, and of small, medium and large objects."""
    if not settings.coco_ap:
        return []
    dataset, numbers = coco_dataset(case.truth, case.class_names)
    figures = coco_ap(dataset, coco_results(case.detections, numbers))
    return [
        case.per_class("COCO AP", figures.ap),
        case.per_class("COCO AP50", figures.at[0.5]),
        case.per_class("COCO AP75", figures.at[0.75]),
        *(case.per_class(f"COCO AP {size}", found) for size, found in figures.of_size.items()),
    ]


@dataclass(frozen=True)
class CocoAp:
    """COCO's figures, each a mean over classes; NaN where the ground truth holds no object of that kind.

    Attributes:
        ap: mean over IoU .50:.05:.95.
        at: the figure at every single IoU threshold that was asked for.
        of_size: `ap` of small, medium and large objects, whose areas are below 32², up to 96² and above.
    """

    ap: PerClass
    at: dict[float, PerClass]
    of_size: dict[str, PerClass]


def coco_ap(
    dataset: CocoJson,
    results: Sequence[Mapping[str, Any]],
    *,
    kind: Kind = "bbox",
    more: Sequence[float] = (),
) -> CocoAp:
    """COCO's average precision by the 101-point rule, at most 100 detections an image and class.

    Args:
        dataset: COCO ground truth as loaded from JSON: `images`, `categories`, `annotations`.
        results: COCO results as loaded from JSON; none at all gives zeros.
        kind: compare boxes (`bbox`) or masks (`segm`, RLE).
        more: IoU thresholds beside COCO's own.
    """
    thresholds = sorted({*COCO_THRESHOLDS, *more})
    precision = coco_precision(dataset, results, kind, thresholds)
    categories = sorted(dataset["categories"], key=lambda item: item["id"])
    counts = Counter(item["category_id"] for item in dataset["annotations"] if not item.get("iscrowd"))
    support = np.asarray([counts[item["id"]] for item in categories], np.int64)
    names, own = [item["name"] for item in categories], [value in COCO_THRESHOLDS for value in thresholds]

    def mean(part: NDArray[np.float64]) -> PerClass:
        """Of precision (thresholds, 101, classes); -1 stands for no object."""
        return PerClass.of(names, np.where(part > -1, part, np.nan).mean(axis=(0, 1)), support)

    return CocoAp(
        ap=mean(precision[own, ..., 0]),
        at={value: mean(precision[t : t + 1, ..., 0]) for t, value in enumerate(thresholds)},
        of_size={size: mean(precision[own, ..., a]) for a, size in enumerate(SIZES, start=1)},
    )


def coco_dataset(ground_truth: Truth, class_names: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Ground truth as a COCO dataset (annotations without ids), and its number of every image; difficult ones are crowds.

    Areas, which decide what is small or large, are the annotation's, as in COCO those of the masks; else the box's.
    """
    numbers = {key: number for number, key in enumerate(ground_truth, start=1)}
    annotations = [
        {
            "image_id": numbers[key],
            "category_id": int(category) + 1,
            "bbox": box,
            "area": size,
            "iscrowd": int(difficult),
        }
        for key, objects in ground_truth.items()
        for category, box, size, difficult in zip(
            objects.class_index,
            xyxy_to_xywh(objects.boxes).tolist(),
            areas_or(objects, area(objects.boxes)).tolist(),
            objects.difficult,
            strict=True,
        )
    ]
    dataset = {
        "images": [{"id": number} for number in numbers.values()],
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }
    return dataset, numbers


def areas_or(objects: GroundTruth, otherwise: NDArray[np.floating]) -> NDArray[np.floating]:
    """Areas (n,) as annotated; where the annotation does not say, the others."""
    return otherwise if objects.areas is None else np.where(np.isnan(objects.areas), otherwise, objects.areas)


def coco_results(
    detections: Mapping[str, Detections], image_numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Detections as COCO results for a dataset of `coco_dataset`.

    Raises:
        UserError: for detections of an image without a number.
    """
    ordered = in_order(image_numbers, detections, Detections.empty(), name="detections")
    return [
        {"image_id": number, "category_id": category + 1, "bbox": box, "score": score}
        for number, item in zip(image_numbers.values(), ordered, strict=True)
        for category, box, score in zip(
            item.class_index.tolist(), xyxy_to_xywh(item.boxes).tolist(), item.scores.tolist(), strict=True
        )
    ]
