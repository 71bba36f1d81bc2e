"""Quality of pseudo masks: how well each annotated object is covered, and precision and recall (spec 07 §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from weaksam_cli.core.types import Detections
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.mask_matching import MaskSettings, Sizes, best_mask_overlaps, masks_of
from weaksam_cli.eval.matching import FALSE, THRESHOLD, TRUE, matched

COVERED: Final = (0.5, 0.7)
"""IoU from which on an object counts as covered."""


@dataclass(frozen=True)
class MaskQuality:
    """Figures of pseudo masks; `total` of each is the one over all objects (precision: all masks) together.

    Attributes:
        iou: mean over the objects of the best IoU with a pseudo mask of their class, 0 for an object without one.
        covered: IoU -> share of the objects whose best IoU reaches it.
        precision, recall: at IoU .5, each object counted once, as VOC matches detections.
    """

    iou: PerClass
    covered: dict[float, PerClass]
    precision: PerClass
    recall: PerClass


def evaluate(case: Case, settings: MaskSettings) -> list[Metric]:
    """The figures over all classes together, and of each class; nothing without masks."""
    compared = masks_of(case, settings)
    if compared is None:
        return []
    found = mask_quality(*compared, case.class_names, case.sizes)
    named = {
        "mean best mask IoU": found.iou,
        **{f"objects with mask IoU {value:g} or more": share for value, share in found.covered.items()},
        f"mask precision at IoU {THRESHOLD}": found.precision,
        f"mask recall at IoU {THRESHOLD}": found.recall,
    }
    return [replace(case.per_class(name, figure), value=figure.total) for name, figure in named.items()]


def mask_quality(
    truth: Truth, pseudo: Mapping[str, Detections], class_names: Sequence[str], sizes: Sizes
) -> MaskQuality:
    """Compare pseudo masks with those of the objects; flagged objects count neither way.

    Args:
        truth: image key to objects, all with masks.
        pseudo: image key to pseudo masks; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.
        sizes: of the images.

    Raises:
        UserError: for masks of an image that the ground truth does not hold.
    """
    n_classes = len(class_names)
    overlaps, best = best_mask_overlaps(truth, pseudo, n_classes, sizes)
    counts = ~overlaps.difficult
    class_of, best = overlaps.objects_group[counts] % n_classes, best[counts]
    support = np.bincount(class_of, minlength=n_classes)

    def share(values: np.ndarray) -> PerClass:
        return PerClass.ratio(class_names, np.bincount(class_of, values, minlength=n_classes), support)

    matches = matched(overlaps, overlaps.best >= THRESHOLD, n_classes)
    true, false = matches.counts(TRUE), matches.counts(FALSE)
    return MaskQuality(
        share(best),
        {value: share(best >= value) for value in COVERED},
        PerClass.ratio(class_names, true, true + false),
        PerClass.ratio(class_names, true, support),
    )
