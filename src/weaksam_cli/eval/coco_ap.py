"""COCO average precision by pycocotools, for boxes and masks (spec 07 §4, §5)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import area, xyxy_to_xywh
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.eval.case import Case, Metric, Truth
from weaksam_cli.eval.matching import in_order

Kind = Literal["bbox", "segm"]
CocoJson = Mapping[str, Any]
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))
MASK_THRESHOLDS = (0.25, 0.5, 0.7, 0.75)
MAX_DETECTIONS = 100
"""Detections of an image and class that count."""


class CocoSettings(RecipeModel):
    """How COCO AP is counted.

    Attributes:
        coco_ap: compute it at all.
    """

    coco_ap: bool = True


def evaluate(case: Case, settings: CocoSettings) -> list[Metric]:
    """AP over IoU .50:.05:.95, at .50 and at .75."""
    if not settings.coco_ap:
        return []
    dataset, numbers = coco_dataset(case.truth, case.class_names)
    figures = coco_ap(dataset, coco_results(case.detections, numbers))
    return [
        replace(case.metric("COCO AP", figures.ap), classes=figures.per_class),
        case.metric("COCO AP50", figures.ap50),
        case.metric("COCO AP75", figures.ap75),
    ]


@dataclass(frozen=True)
class CocoAp:
    """COCO's figures as shares in [0, 1]; NaN where the ground truth holds no object of that kind.

    Attributes:
        ap: mean over IoU .50:.05:.95.
        ap50: at IoU .50.
        ap75: at IoU .75.
        per_class: class name to `ap`.
    """

    ap: float
    ap50: float
    ap75: float
    per_class: dict[str, float]


def coco_ap(dataset: CocoJson, results: Sequence[Mapping[str, Any]], *, kind: Kind = "bbox") -> CocoAp:
    """COCO's average precision over IoU .50:.05:.95.

    Args:
        dataset: COCO ground truth as loaded from JSON: `images`, `categories`, `annotations`.
        results: COCO results as loaded from JSON; none at all gives zeros.
        kind: compare boxes (`bbox`) or masks (`segm`, RLE).
    """
    precision = _precision(dataset, results, kind)
    categories = sorted(dataset["categories"], key=lambda item: item["id"])
    return CocoAp(
        ap=_mean(precision),
        ap50=_mean(precision[0]),
        ap75=_mean(precision[5]),
        per_class={item["name"]: _mean(precision[:, :, k]) for k, item in enumerate(categories)},
    )


def coco_ap_at(
    dataset: CocoJson, results: Sequence[Mapping[str, Any]], thresholds: Sequence[float] = MASK_THRESHOLDS
) -> dict[float, float]:
    """Average precision of masks at single IoU thresholds, by COCO's 101-point rule over objects of every size.

    The paper reports masks on VOC12 at .25, .5, .7 and .75 without stating the protocol; see also
    `weaksam_cli.eval.mask_ap.mask_ap_voc`.

    Args:
        dataset, results: see `coco_ap`.
        thresholds: IoU thresholds.
    """
    precision = _precision(dataset, results, "segm", thresholds)
    return {value: _mean(precision[t]) for t, value in enumerate(thresholds)}


def coco_dataset(ground_truth: Truth, class_names: Sequence[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Ground truth as a COCO dataset (annotations without ids), and its number of every image; difficult ones are crowds."""
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
            area(objects.boxes).tolist(),
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


def load_quietly(dataset: CocoJson, results: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """Ground truth and results as two pycocotools `COCO` objects; what the caller gave stays unchanged."""
    from pycocotools.coco import COCO

    def indexed(content: CocoJson) -> Any:
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        return coco

    # pycocotools takes an annotation with the id 0 for a missing match, so the ids are given anew.
    annotations = [{**item, "id": number} for number, item in enumerate(dataset["annotations"], start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = indexed({"info": {}, **dataset, "annotations": annotations})
        if results:
            return truth, truth.loadRes([dict(item) for item in results])
        return truth, indexed({**dataset, "annotations": []})


def _precision(
    dataset: CocoJson,
    results: Sequence[Mapping[str, Any]],
    kind: Kind,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
) -> NDArray[np.float64]:
    """COCOeval's precision (thresholds, 101 recalls, classes), objects of every size; -1 where there is no object."""
    from pycocotools.cocoeval import COCOeval

    truth, found = load_quietly(dataset, results)
    if not truth.anns:
        return np.full((len(thresholds), 101, len(dataset["categories"])), -1.0)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, kind)
        parameters = evaluation.params
        parameters.maxDets = [MAX_DETECTIONS]
        parameters.iouThrs = np.asarray(thresholds, dtype=np.float64)
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][..., 0, 0], dtype=np.float64)


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")
