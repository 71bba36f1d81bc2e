"""Recall of class-agnostic proposals, of all and against how many of them are kept (spec 03 §7, 07 §3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from weaksam_cli.artifacts.proposals import SOURCES, Proposals
from weaksam_cli.core.boxes import FloatArray, as_boxes, iou
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.eval.case import Case, Metric, Truth
from weaksam_cli.eval.matching import (
    FROM_ONE_INCLUSIVE,
    FROM_ZERO_INCLUSIVE,
    PIXEL_EDGES,
    Convention,
    in_order,
)

PUBLISHED_VOC = Convention(
    detection_offset=FROM_ZERO_INCLUSIVE, ground_truth_offset=FROM_ONE_INCLUSIVE, plus_one=True
)
"""The published proposal recall on VOC: inclusive boxes counted from 0 against the XML's counted from 1, areas with +1."""

Budget = int | None
"""How many proposals of an image are kept; None: all of them."""


def convention_of(layout: str) -> Convention:
    """How the published code reads the boxes of a layout: the shift by a pixel is VOC's alone, others are 0-based edges."""
    return PUBLISHED_VOC if layout == "voc" else PIXEL_EDGES


class RecallSettings(RecipeModel):
    """How recall is counted.

    Attributes:
        recall_thresholds: IoU thresholds; equality counts.
        recall_budgets: numbers of proposals kept of an image at which recall is computed, beside all of them.
        strict_denominator: count the objects of images without proposals as missed. The published code leaves them out,
            which inflates the recall.
        difficult: whether objects marked difficult (COCO: crowds) count (published: include). VOC AP ignores them, as its
            rules demand, and each CorLoc protocol has a rule of its own.
    """

    recall_thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.5, 0.75, 0.9), min_length=1, max_length=100
    )
    recall_budgets: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(
        default=(10, 20, 50, 100, 200, 300, 500, 1000), max_length=100
    )
    strict_denominator: bool = True
    difficult: Literal["include", "exclude"] = "include"

    @model_validator(mode="after")
    def _budgets_increase(self) -> Self:
        if list(self.recall_budgets) != sorted(set(self.recall_budgets)):
            raise ValueError(f"recall_budgets: expected increasing numbers, got {list(self.recall_budgets)}")
        return self


def evaluate(case: Case, settings: RecallSettings) -> list[Metric]:
    """Recall at each threshold and the mean number, of all proposals and of every source that occurs, alone."""
    proposals, convention = case.proposals(case.path), convention_of(case.layout)
    sets = {"": {key: item.boxes for key, item in proposals.items()}}
    for index, name in enumerate(SOURCES):
        if any((item.source == index).any() for item in proposals.values()):
            sets[f": {name}"] = {key: item.boxes[item.source == index] for key, item in proposals.items()}
    found = []
    for suffix, boxes in sets.items():
        whole = recall_curve(case.truth, boxes, (None,), settings, convention)
        found += [
            case.metric(f"recall at IoU {threshold:g}{suffix}", value)
            for threshold, (value,) in whole.recall.items()
        ]
        found.append(case.metric(f"proposals an image{suffix}", whole.mean_counts[0], share=False))
    return found


def curve_of(case: Case, settings: RecallSettings) -> RecallCurve:
    """Recall against how many of the proposals, the best first, are kept of an image; the last budget is all."""
    boxes = {key: best_first(item) for key, item in case.proposals(case.path).items()}
    budgets = (*settings.recall_budgets, None)
    return recall_curve(case.truth, boxes, budgets, settings, convention_of(case.layout))


def best_first(proposals: Proposals) -> FloatArray:
    """Boxes (n, 4) by decreasing predicted IoU; equal ones keep their order, those without one (NaN) come last."""
    return proposals.boxes[np.argsort(-proposals.predicted_iou, kind="stable")]


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
        """As it stands in the results file: shares in [0, 1], null for what could not be told and for "all"."""
        return {
            "budgets": list(self.budgets),
            "proposals an image": [round(value, 3) for value in self.mean_counts],
            "recall": {
                f"{threshold:g}": [None if np.isnan(value) else round(value, 6) for value in values]
                for threshold, values in self.recall.items()
            },
        }


def recall_curve(
    truth: Truth,
    proposals: Mapping[str, FloatArray],
    budgets: Sequence[Budget],
    settings: RecallSettings,
    convention: Convention,
) -> RecallCurve:
    """Recall of the first proposals of every image, for several numbers of them.

    Objects and proposals of an image are matched one to one, greedily by IoU and whatever the class. More proposals never
    find fewer objects, in spite of the greedy matching: taking the largest overlap again and again
    gives the one stable matching of objects and proposals, and in a stable matching a further proposal makes no object
    worse off (Gale and Sotomayor 1985); equal overlaps fall to the first, whatever follows. So each object's overlap, and
    recall at each threshold, never falls with the budget. (Further *objects* can well take proposals from others.)

    Args:
        truth: image key to objects.
        proposals: image key to boxes float32 (n, 4), xyxy pixel edges; a missing image has none. Budgets keep the first.
        budgets: see `RecallCurve`.
        settings: see there.
        convention: how boxes are read, see `convention_of`.

    Raises:
        UserError: for proposals of an image that the ground truth does not hold.
    """
    matched: list[list[FloatArray]] = [[np.zeros(0, np.float32)] for _ in budgets]
    for overlap in _overlaps(truth, proposals, settings, convention):
        kept = [overlap[:, :budget].shape[1] for budget in budgets]
        found = {size: greedy_one_to_one(overlap[:, :size]).astype(np.float32) for size in set(kept)}
        for parts, size in zip(matched, kept, strict=True):
            parts.append(found[size])
    best = [np.concatenate(parts) for parts in matched]
    counts = [sum(len(boxes[:budget]) for boxes in proposals.values()) for budget in budgets]
    return RecallCurve(
        tuple(budgets),
        tuple(count / len(truth) if truth else 0.0 for count in counts),
        {
            threshold: tuple(_share_found(item, threshold) for item in best)
            for threshold in settings.recall_thresholds
        },
    )


def _share_found(best: FloatArray, threshold: float) -> float:
    return float((best >= np.float32(threshold)).mean()) if len(best) else float("nan")


def _overlaps(
    truth: Truth, proposals: Mapping[str, FloatArray], settings: RecallSettings, convention: Convention
) -> Iterator[FloatArray]:
    """IoU float32 (objects, proposals) of every image whose objects count, in the order of the ground truth."""
    boxes = in_order(truth, proposals, as_boxes([]), name="proposals")
    for objects, candidates in zip(truth.values(), boxes, strict=True):
        if len(candidates) == 0 and not settings.strict_denominator:
            continue
        wanted = objects.boxes if settings.difficult == "include" else objects.boxes[~objects.difficult]
        yield iou(
            convention.ground_truth_boxes(wanted).astype(np.float32),
            convention.detection_boxes(candidates).astype(np.float32),
            plus_one=convention.plus_one,
        )


def greedy_one_to_one(overlap: NDArray[np.floating]) -> NDArray[np.floating]:
    """Best one-to-one overlap of every object, taking the largest entry of the matrix again and again.

    Args:
        overlap: IoU (objects, proposals).

    Returns:
        (objects,), in the order of the objects; -1 for an object that no proposal is left for.
    """
    left = overlap.copy()
    matched = np.full(len(overlap), -1, dtype=overlap.dtype)
    for _ in range(min(overlap.shape)):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        matched[row] = left[row, column]
        left[row, :] = -1
        left[:, column] = -1
    return matched
