"""Adaptive pseudo ground truth: as many boxes a class as its scores support (spec 05 §2 to §5)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.core.boxes import area, intersection
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import LabelChoice
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.pgt.masks import MaskChoice
from weaksam_cli.pgt.stage import pgt_steps

Mutual = Literal["drop_both", "keep_best"]
Float64Array = NDArray[np.float64]

SCORE_EPSILON, AREA_EPSILON = 1e-8, 1e-6
"""What the published code adds to a span of scores, and to an area in square pixels, before dividing by it."""


class Selection(LabelChoice):
    """Class filter, relative scores, containment.

    Attributes:
        score_threshold: least relative score of a box that is not the first of its class in the image (tau_s).
        containment_threshold: a box that lies inside another of its class by at least this share is dropped (tau_o).
        sort_first: take the best box of a class as the first, not the first in the list.
        mutual: what happens to boxes that contain each other.
        containment_input: `as_released` compares boxes whose width was added twice, as the released script would.
        saved_score: the detector's score, or the relative one that the published files hold.
    """

    method: Literal["adaptive"] = "adaptive"
    score_threshold: float = Field(default=0.3, ge=0, le=1e9)
    containment_threshold: float = Field(default=0.85, gt=0, le=1)
    sort_first: bool = True
    mutual: Mutual = "drop_both"
    containment_input: Literal["fix", "as_released"] = "fix"
    saved_score: Literal["detector", "relative"] = "detector"


class Recipe(Selection, MaskChoice):
    """Pseudo boxes, and masks of them."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """One COCO-JSON file, and with masks what it is made from."""
    selection = recipe.part(Selection)
    return pgt_steps(recipe, selection, context, split, partial(select, recipe=selection))


def select(found: Detections, classes: Collection[int], recipe: Selection) -> Detections:
    """Class filter, score filter and containment filter, in this order, for the detections of one image.

    Args:
        found: detections on a training image.
        classes: the image-level labels, indexes into the dataset's class names.
        recipe: see there.

    Returns:
        The pseudo boxes in the order of the detections.
    """
    kept: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    scores = found.scores.copy()
    for index in sorted(set(classes)):
        rows = np.flatnonzero(found.class_index == index)
        relative = relative_scores(found.scores[rows])
        scores[rows] = relative
        passing = relative >= recipe.score_threshold
        if len(rows):
            # With the published list order the first is the best, too: detectors sort by score within a class.
            passing[relative.argmax() if recipe.sort_first else 0] = True
        rows, relative = rows[passing], relative[passing]
        boxes = found.boxes[rows].astype(np.float64)
        if recipe.containment_input == "as_released":
            # The published VOC branch hands xyxy boxes to a function that takes xywh.
            boxes[:, 2:] += boxes[:, :2]
        kept.append(rows[~contained(boxes, relative, recipe.containment_threshold, recipe.mutual)])
    rows = np.sort(np.concatenate(kept))
    answer = found.take(rows)
    if recipe.saved_score == "detector":
        return answer
    return Detections(answer.boxes, answer.class_index, scores[rows])


def relative_scores(scores: NDArray[np.float32]) -> Float64Array:
    """Scores (n,) of one image and class divided by their span: s / (max - min + 1e-8).

    As published: the minimum is not subtracted, so that the best box has a relative score of 1 or a little more
    where low scores are present, and some 1e8 times its score where it is the only one.
    """
    exact = scores.astype(np.float64)
    span = exact.max(initial=-np.inf) - exact.min(initial=np.inf)
    return exact / (span + SCORE_EPSILON)


def containment(a: Float64Array, b: Float64Array) -> Float64Array:
    """Share of every box of `a` (n, 4) that lies within every box of `b` (m, 4): area(a and b) / (area(a) + 1e-6).

    Returns:
        float64 (n, m); 0 for an empty box of `a`.
    """
    shares: Float64Array = intersection(a[:, None], b[None]) / (area(a)[:, None] + AREA_EPSILON)
    return shares


def contained(
    boxes: Float64Array, scores: Float64Array, threshold: float, mutual: Mutual
) -> NDArray[np.bool_]:
    """Which boxes lie, by at least `threshold`, within another box.

    The enclosing box stays. All boxes are compared, so that a box that is itself contained still removes others.

    Args:
        boxes: float64 (n, 4) of one image and class, after the score filter.
        scores: float64 (n,); they play a role for near duplicates alone.
        threshold: least share of the area (published: 0.85).
        mutual: what becomes of near duplicates, boxes that contain each other. `drop_both`: all of them go, as
            in the published code. `keep_best`: they are first reduced to the best-scored one, greedily, and what
            was reduced away removes nothing; then at least one box remains.

    Returns:
        bool (n,).
    """
    within = containment(boxes, boxes) >= threshold
    np.fill_diagonal(within, False)
    if mutual == "drop_both":
        return np.asarray(within.any(axis=1))
    each_other = within & within.T
    alive = np.ones(len(boxes), dtype=bool)
    for best in np.argsort(-scores, kind="stable"):
        if alive[best]:
            alive[each_other[best]] = False
    remaining = within & ~each_other & alive
    return ~alive | remaining.any(axis=1)
