"""VOC average precision, in the protocol of every evaluator that figures are compared with (spec 07 §1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.matching import (
    DETECTRON2_TEXT,
    FALSE,
    MIST_AP,
    MMDETECTION_2,
    MMDETECTION_3_LEGACY,
    PIXEL_EDGES,
    TRUE,
    Convention,
    Float64Array,
    Matches,
    match_detections,
)

Curve = Literal["11point", "area"]


@dataclass(frozen=True)
class VocProtocol:
    """How boxes are compared and how the curve is summed up."""

    convention: Convention
    curve: Curve


VocName = Literal["weaksam", "weaksam-area", "mist", "wsod2", "dino", "detectron2-2007", "detectron2-2012"]
VOC_PROTOCOLS: dict[VocName, VocProtocol] = {
    "weaksam": VocProtocol(PIXEL_EDGES, "11point"),
    "weaksam-area": VocProtocol(PIXEL_EDGES, "area"),
    "mist": VocProtocol(MIST_AP, "11point"),
    "wsod2": VocProtocol(MMDETECTION_2, "11point"),
    "dino": VocProtocol(MMDETECTION_3_LEGACY, "11point"),
    "detectron2-2007": VocProtocol(DETECTRON2_TEXT, "11point"),
    "detectron2-2012": VocProtocol(DETECTRON2_TEXT, "area"),
}
"""Our own protocol, with both sums of the curve, and those of the published evaluators."""


class VocSettings(RecipeModel):
    """How VOC AP is counted.

    Attributes:
        voc_ap: protocols; the first is the headline.
    """

    voc_ap: tuple[VocName, ...] = Field(default=("weaksam", "weaksam-area", "mist"), max_length=10)


def evaluate(case: Case, settings: VocSettings) -> list[Metric]:
    """AP at IoU .5 by each protocol."""
    return [
        case.per_class(
            f"VOC AP50 ({name})", voc_ap(case.truth, case.detections, case.class_names, VOC_PROTOCOLS[name])
        )
        for name in settings.voc_ap
    ]


def voc_ap(
    truth: Truth, detections: Mapping[str, Detections], class_names: Sequence[str], protocol: VocProtocol
) -> PerClass:
    """Average precision of every class at IoU .5; difficult objects count neither way.

    Args:
        truth: image key to objects.
        detections: image key to detections; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.
        protocol: see `VOC_PROTOCOLS`.

    Returns:
        Average precision; the support is the number of objects that are not difficult.

    Raises:
        UserError: for detections of an image that the ground truth does not hold.
    """
    matches = match_detections(truth, detections, len(class_names), protocol.convention)
    return average_precisions(matches, class_names, protocol.curve)


def average_precisions(matches: Matches, class_names: Sequence[str], curve: Curve) -> PerClass:
    """Average precision of every class of `matches`; NaN without objects, 0 with objects but no detection."""
    values = []
    for index, n_objects in enumerate(matches.n_objects):
        if n_objects == 0:
            values.append(float("nan"))
            continue
        precision, recall = precision_recall(matches.status[matches.class_index == index], int(n_objects))
        values.append(eleven_point(precision, recall) if curve == "11point" else area(precision, recall))
    return PerClass.of(class_names, values, matches.n_objects)


def precision_recall(status: NDArray[np.int8], n_objects: int) -> tuple[Float64Array, Float64Array]:
    """Precision and recall after every detection, by decreasing score; ignored ones repeat the value before."""
    true, false = np.cumsum(status == TRUE), np.cumsum(status == FALSE)
    return true / np.maximum(true + false, 1), true / n_objects


def eleven_point(precision: Float64Array, recall: Float64Array) -> float:
    """Mean over r in 0, .1, ..., 1 of the largest precision at a recall of r or more.

    As in the published evaluators the points are `numpy.arange(0, 1.1, 0.1)`: those near .3, .6 and .7 lie above the
    decimal by a rounding error, so that a recall of exactly 3 in 10 does not reach the fourth.
    """
    points = np.arange(0.0, 1.1, 0.1)
    return sum(float(precision[recall >= point].max(initial=0)) / 11 for point in points)


def area(precision: Float64Array, recall: Float64Array) -> float:
    """Area under the precision-recall curve after precision is made to decrease."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
