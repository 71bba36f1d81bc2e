"""CorLoc: how often the best box of a class that is in the image lies on an object of it (spec 07 §2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.eval.conventions import DETECTRON2_TEXT, MIST_CORLOC, Convention
from weaksam_cli.eval.matching import best_overlaps, check_classes, detection_rows, ground_truth_rows
from weaksam_cli.eval.results import PerClass


@dataclass(frozen=True)
class CorlocProtocol:
    """How boxes are compared and which images count.

    Attributes:
        convention: how boxes are read and compared.
        count_difficult_only: whether an image counts whose objects of the class are all difficult.
    """

    convention: Convention
    count_difficult_only: bool


CORLOC_PROTOCOLS: dict[str, CorlocProtocol] = {
    "weaksam": CorlocProtocol(Convention(strict=True), count_difficult_only=True),
    "mist": CorlocProtocol(MIST_CORLOC, count_difficult_only=True),
    "detectron2": CorlocProtocol(DETECTRON2_TEXT, count_difficult_only=False),
}
"""Our own (IoU of float boxes without +1, above 0.5), MIST's (the likely one of the paper's Table 4), and the fork's."""


def corloc(
    ground_truth: Mapping[str, GroundTruth],
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    *,
    protocol: CorlocProtocol = CORLOC_PROTOCOLS["weaksam"],
    threshold: float = 0.5,
) -> PerClass:
    """Share of the images with a class whose best-scored box of it overlaps one of its objects enough.

    Of equal scores the first wins. Any object of the class may be hit, a difficult one as well.

    Args:
        ground_truth: image key to objects.
        detections: image key to detections; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.
        protocol: see `CORLOC_PROTOCOLS`.
        threshold: IoU that must be exceeded.

    Returns:
        CorLoc of every class; the support is the number of images that count.

    Raises:
        UserError: for detections of an image that the ground truth does not hold.
        ValueError: for classes outside `class_names`.
    """
    n_classes, convention = len(class_names), protocol.convention
    annotated = ground_truth_rows(ground_truth, convention)
    detected = detection_rows(ground_truth, detections, convention)
    check_classes(annotated.class_index, n_classes, name="ground truth")
    check_classes(detected.class_index, n_classes, name="detections")
    counting = protocol.count_difficult_only | (annotated.weight == 0)
    positives = np.unique(annotated.group(n_classes)[counting])
    best, _ = best_overlaps(detected, annotated, n_classes=n_classes, plus_one=convention.plus_one)
    groups = detected.group(n_classes)
    order = np.argsort(-detected.weight, kind="stable")
    found, first = np.unique(groups[order], return_index=True)
    hits = found[convention.reaches(best[order[first]], threshold) & np.isin(found, positives)]
    return PerClass.ratio(
        class_names,
        np.bincount(hits % n_classes, minlength=n_classes),
        np.bincount(positives % n_classes, minlength=n_classes),
    )
