"""Recall of class-agnostic proposals (spec 03 §7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weaksam_cli.core.boxes import FloatArray, as_boxes, iou
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.eval.conventions import PIXEL_EDGES, Convention
from weaksam_cli.eval.matching import greedy_one_to_one, in_order

THRESHOLDS = (0.5, 0.6, 0.75, 0.9)


@dataclass(frozen=True)
class ProposalRecall:
    """Recall of proposals over a set of images.

    Attributes:
        recall: IoU threshold to share of objects with a proposal of their own; NaN without objects.
        mean_count: proposals an image.
        n_images: images of the ground truth.
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

    Objects and proposals of an image are matched one to one, greedily by IoU and whatever the class.

    Args:
        ground_truth: image key to objects.
        proposals: image key to boxes float32 (n, 4), xyxy pixel edges; a missing image has none.
        thresholds: IoU thresholds; equality counts.
        strict_denominator: count the objects of images without proposals as missed. The published code leaves
            them out, which inflates the recall.
        include_difficult: count difficult objects (published: True).
        convention: how boxes are read; `PUBLISHED_RECALL` for the published code's.

    Raises:
        UserError: for proposals of an image that the ground truth does not hold.
    """
    matched = [np.zeros(0, dtype=np.float32)]
    for overlap in overlaps_by_image(
        ground_truth,
        proposals,
        strict_denominator=strict_denominator,
        include_difficult=include_difficult,
        convention=convention,
    ):
        matched.append(np.asarray(greedy_one_to_one(overlap), dtype=np.float32))
    best = np.concatenate(matched)
    count = sum(map(len, proposals.values()))
    return ProposalRecall(
        {value: share_found(best, value) for value in thresholds},
        count / len(ground_truth) if ground_truth else 0.0,
        len(ground_truth),
        len(best),
    )


def share_found(best: FloatArray, threshold: float) -> float:
    """Share of objects whose best overlap, float32 (n,), reaches the threshold; NaN without objects."""
    return float((best >= np.float32(threshold)).mean()) if len(best) else float("nan")


def overlaps_by_image(
    ground_truth: Mapping[str, GroundTruth],
    proposals: Mapping[str, FloatArray],
    *,
    strict_denominator: bool,
    include_difficult: bool,
    convention: Convention,
) -> Iterator[FloatArray]:
    """IoU float32 (objects, proposals) of every image whose objects count, in the order of the ground truth.

    Arguments and errors are those of `proposal_recall`.
    """
    boxes = in_order(ground_truth, proposals, as_boxes([]), name="proposals")
    for objects, candidates in zip(ground_truth.values(), boxes, strict=True):
        if len(candidates) == 0 and not strict_denominator:
            continue
        wanted = objects.boxes if include_difficult else objects.boxes[~objects.difficult]
        yield iou(
            convention.ground_truth_boxes(wanted).astype(np.float32),
            convention.detection_boxes(candidates).astype(np.float32),
            plus_one=convention.plus_one,
        )
