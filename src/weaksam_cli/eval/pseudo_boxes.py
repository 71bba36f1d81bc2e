"""Precision and recall of pseudo boxes against the annotated ones (spec 07 §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.matching import FALSE, PIXEL_EDGES, TRUE, match_detections


def evaluate(case: Case, _: RecipeModel) -> list[Metric]:
    """Precision and recall at IoU .5 over all classes together, and the number of boxes."""
    precision, recall = precision_and_recall(case.truth, case.detections, case.class_names)
    count = sum(map(len, case.detections.values())) / max(len(case.detections), 1)
    return [
        replace(case.per_class("precision at IoU 0.5", precision), value=precision.total),
        replace(case.per_class("recall at IoU 0.5", recall), value=recall.total),
        case.metric("pseudo boxes an image", count, share=False),
    ]


def precision_and_recall(
    truth: Truth, pseudo_boxes: Mapping[str, Detections], class_names: Sequence[str]
) -> tuple[PerClass, PerClass]:
    """Match pseudo boxes at IoU .5 as VOC matches detections; those on difficult objects count neither way.

    Args:
        truth: image key to objects.
        pseudo_boxes: image key to pseudo boxes; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.

    Returns:
        Precision, its support the boxes that count, and recall, its support the objects that are not difficult.

    Raises:
        UserError: for pseudo boxes of an image that the ground truth does not hold.
    """
    matches = match_detections(truth, pseudo_boxes, len(class_names), PIXEL_EDGES)
    true, false = matches.counts(TRUE), matches.counts(FALSE)
    return (
        PerClass.ratio(class_names, true, true + false),
        PerClass.ratio(class_names, true, matches.n_objects),
    )
