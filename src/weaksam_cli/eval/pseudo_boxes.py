"""Precision and recall of pseudo boxes against the annotated ones (spec 07 §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.matching import FALSE, PIXEL_EDGES, TRUE, match_detections


def evaluate(case: Case, _: RecipeModel) -> list[Metric]:
    """Precision and recall at IoU .5 over all classes together, and the number of boxes."""
    quality = pseudo_box_quality(case.truth, case.detections, case.class_names)
    count = sum(map(len, case.detections.values())) / max(len(case.detections), 1)
    precision = case.per_class("precision at IoU 0.5", quality.precision)
    recall = case.per_class("recall at IoU 0.5", quality.recall)
    return [
        replace(precision, value=quality.total_precision),
        replace(recall, value=quality.total_recall),
        case.metric("pseudo boxes an image", count, share=False),
    ]


@dataclass(frozen=True)
class PseudoBoxQuality:
    """Quality of pseudo boxes.

    Attributes:
        precision: share of true boxes; support: boxes that count; NaN for a class without pseudo boxes.
        recall: share of objects found; support: objects that are not difficult.
        total_precision: over all classes together.
        total_recall: over all classes together.
    """

    precision: PerClass
    recall: PerClass
    total_precision: float
    total_recall: float


def pseudo_box_quality(
    truth: Truth, pseudo_boxes: Mapping[str, Detections], class_names: Sequence[str]
) -> PseudoBoxQuality:
    """Match pseudo boxes at IoU .5 as VOC matches detections; those on difficult objects count neither way.

    Args:
        truth: image key to objects.
        pseudo_boxes: image key to pseudo boxes; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.

    Raises:
        UserError: for pseudo boxes of an image that the ground truth does not hold.
        ValueError: for classes outside `class_names`.
    """
    matches = match_detections(truth, pseudo_boxes, len(class_names), PIXEL_EDGES)
    true, false = matches.counts(TRUE), matches.counts(FALSE)
    return PseudoBoxQuality(
        PerClass.ratio(class_names, true, true + false),
        PerClass.ratio(class_names, true, matches.n_objects),
        _share(int(true.sum()), int((true + false).sum())),
        _share(int(true.sum()), int(np.sum(matches.n_objects))),
    )


def _share(hits: int, total: int) -> float:
    return hits / total if total else float("nan")
