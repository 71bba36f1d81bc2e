"""Recall of class-agnostic proposals against how many of them are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.eval.conventions import PIXEL_EDGES, Convention
from weaksam_cli.eval.matching import greedy_one_to_one
from weaksam_cli.eval.proposal_recall import overlaps_by_image, share_found

Budget = int | None
"""How many proposals of an image are kept; None: all of them."""


@dataclass(frozen=True)
class RecallCurve:
    """Recall at every budget; all tuples have one entry a budget.

    Attributes:
        budgets: most proposals kept of an image.
        mean_counts: proposals kept an image, on average; below the budget where images have fewer.
        recall: IoU threshold to share of objects with a proposal of their own; NaN without objects.
    """

    budgets: tuple[Budget, ...]
    mean_counts: tuple[float, ...]
    recall: dict[float, tuple[float, ...]]

    def as_json(self) -> dict[str, Any]:
        """As it stands in the results file: shares in [0, 1], null for what could not be measured and for "all"."""
        return {
            "budgets": list(self.budgets),
            "proposals an image": [round(value, 3) for value in self.mean_counts],
            "recall": {
                f"{threshold:g}": [None if np.isnan(value) else round(value, 6) for value in values]
                for threshold, values in self.recall.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RecallCurve:
        """From the results file."""
        return cls(
            tuple(content["budgets"]),
            tuple(content["proposals an image"]),
            {
                float(threshold): tuple(float("nan") if value is None else float(value) for value in values)
                for threshold, values in content["recall"].items()
            },
        )


def best_first(boxes: FloatArray, predicted_iou: NDArray[np.floating]) -> FloatArray:
    """Boxes (n, 4) by decreasing predicted IoU (n,); equal ones keep their order, those without one (NaN) come last."""
    return boxes[np.argsort(-predicted_iou, kind="stable")]


def recall_curve(
    ground_truth: Mapping[str, GroundTruth],
    proposals: Mapping[str, FloatArray],
    *,
    budgets: Sequence[Budget],
    thresholds: Sequence[float],
    strict_denominator: bool = True,
    include_difficult: bool = True,
    convention: Convention = PIXEL_EDGES,
) -> RecallCurve:
    """Recall of the first proposals of every image, for several numbers of them.

    More proposals never find fewer objects, in spite of the greedy matching: taking the largest overlap again and again
    gives the one stable matching of objects and proposals, and in a stable matching a further proposal makes no object
    worse off (Gale and Sotomayor 1985); equal overlaps fall to the first, whatever follows. So each object's overlap, and
    recall at each threshold, never falls with the budget. (Further *objects* can well take proposals from others.)

    Args:
        ground_truth: image key to objects.
        proposals: image key to boxes float32 (n, 4), xyxy pixel edges, the best first (see `best_first`).
        budgets: see `RecallCurve`.
        thresholds, strict_denominator, include_difficult, convention: see `proposal_recall`.

    Raises:
        UserError: for proposals of an image that the ground truth does not hold.
    """
    matched: list[list[FloatArray]] = [[np.zeros(0, np.float32)] for _ in budgets]
    for overlap in overlaps_by_image(
        ground_truth,
        proposals,
        strict_denominator=strict_denominator,
        include_difficult=include_difficult,
        convention=convention,
    ):
        kept = [_kept(overlap.shape[1], budget) for budget in budgets]
        found = {
            size: np.asarray(greedy_one_to_one(overlap[:, :size]), dtype=np.float32) for size in set(kept)
        }
        for parts, size in zip(matched, kept, strict=True):
            parts.append(found[size])
    best = [np.concatenate(parts) for parts in matched]
    counts = [sum(_kept(len(boxes), budget) for boxes in proposals.values()) for budget in budgets]
    return RecallCurve(
        tuple(budgets),
        tuple(count / len(ground_truth) if ground_truth else 0.0 for count in counts),
        {value: tuple(share_found(item, value) for item in best) for value in thresholds},
    )


def _kept(count: int, budget: Budget) -> int:
    return count if budget is None else min(count, budget)
