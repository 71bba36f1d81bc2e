"""Precision and recall of pseudo boxes against the annotated ones (spec 07 §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.eval.conventions import PIXEL_EDGES, Convention
from weaksam_cli.eval.matching import FALSE, TRUE, match_detections
from weaksam_cli.eval.results import PerClass


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
    ground_truth: Mapping[str, GroundTruth],
    pseudo_boxes: Mapping[str, Detections],
    class_names: Sequence[str],
    *,
    threshold: float = 0.5,
    convention: Convention = PIXEL_EDGES,
) -> PseudoBoxQuality:
    """Match pseudo boxes as VOC matches detections; those on difficult objects count neither way.

    Args:
        ground_truth: image key to objects.
        pseudo_boxes: image key to pseudo boxes; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.
        threshold: IoU of a true box; equality counts.
        convention: how boxes are read and compared.

    Raises:
        UserError: for pseudo boxes of an image that the ground truth does not hold.
        ValueError: for classes outside `class_names`.
    """
    matches = match_detections(
        ground_truth, pseudo_boxes, class_names, threshold=threshold, convention=convention
    )
    true, false = matches.counts(TRUE), matches.counts(FALSE)
    return PseudoBoxQuality(
        PerClass.ratio(class_names, true, true + false),
        PerClass.ratio(class_names, true, matches.n_objects),
        _share(int(true.sum()), int((true + false).sum())),
        _share(int(true.sum()), int(np.sum(matches.n_objects))),
    )


def _share(hits: int, total: int) -> float:
    return hits / total if total else float("nan")
