"""Recall of class-agnostic proposals (spec 03 §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weaksam_cli.eval.conventions import PIXEL_EDGES, Convention
from weaksam_cli.eval.matching import greedy_one_to_one, in_order
from weaksam_cli.structures.boxes import FloatArray, as_boxes, iou
from weaksam_cli.structures.types import GroundTruth

THRESHOLDS = (0.5, 0.6, 0.75, 0.9)


@dataclass(frozen=True)
class ProposalRecall:
    """Recall of proposals over a set of pictures.

    Attributes:
        recall: IoU threshold to share of objects with a proposal of their own; NaN without objects.
        mean_count: proposals a picture.
        n_images: pictures of the ground truth.
        n_objects: objects in the denominator.
    """

    recall: dict[float, float]
    mean_count: float
    n_images: int
    n_objects: int


def proposal_recall(
    ground_truth: Mapping[str, GroundTruth],
    proposals: Mapping[str, FloatArray],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    strict_denominator: bool = True,
    include_difficult: bool = True,
    convention: Convention = PIXEL_EDGES,
) -> ProposalRecall:
    """Share of the objects that have a proposal of their own at every IoU threshold.

    Objects and proposals of a picture are matched one to one, greedily by IoU and whatever the class.

    Args:
        ground_truth: picture key to objects.
        proposals: picture key to boxes float32 (n, 4), xyxy pixel edges; a missing picture has none.
        thresholds: IoU thresholds; equality counts.
        strict_denominator: count the objects of pictures without proposals as missed. The published code leaves
            them out, which inflates the recall.
        include_difficult: count difficult objects (published: True).
        convention: how boxes are read; `PUBLISHED_RECALL` for the published code's.

    Raises:
        UserError: for proposals of a picture that the ground truth does not hold.
    """
    boxes = in_order(ground_truth, proposals, as_boxes([]), name="proposals")
    matched = [np.zeros(0, dtype=np.float32)]
    for objects, candidates in zip(ground_truth.values(), boxes, strict=True):
        wanted = objects.boxes if include_difficult else objects.boxes[~objects.difficult]
        if len(candidates) == 0 and not strict_denominator:
            continue
        overlap = iou(
            convention.ground_truth_boxes(wanted).astype(np.float32),
            convention.detection_boxes(candidates).astype(np.float32),
            plus_one=convention.plus_one,
        )
        matched.append(np.asarray(greedy_one_to_one(overlap), dtype=np.float32))
    best = np.concatenate(matched)
    return ProposalRecall(
        {
            value: float((best >= np.float32(value)).mean()) if len(best) else float("nan")
            for value in thresholds
        },
        sum(map(len, boxes)) / len(boxes) if boxes else 0.0,
        len(boxes),
        len(best),
    )
