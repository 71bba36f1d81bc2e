"""Top-k pseudo ground truth: the best boxes of every labelled class (spec 05 §6)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import LabelChoice
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.pgt.masks import MaskChoice
from weaksam_cli.pgt.stage import pgt_steps


class Selection(LabelChoice):
    """The best boxes of every image-level label.

    Attributes:
        k: boxes a class at most (published: 1).
    """

    method: Literal["top1"] = "top1"
    k: int = Field(default=1, ge=1, le=10_000)


class Recipe(Selection, MaskChoice):
    """Pseudo boxes, and masks of them."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """One COCO-JSON file, and with masks what it is made from."""
    selection = recipe.part(Selection)
    return pgt_steps(recipe, selection, context, split, partial(select, recipe=selection))


def select(found: Detections, classes: Collection[int], recipe: Selection) -> Detections:
    """The `k` best detections with a positive score of every image-level label of one image.

    Returns:
        The pseudo boxes by decreasing score over all classes; equal scores keep the order of the detections. A label
        without detections has no pseudo box.
    """
    ordered = found.take(np.argsort(-found.scores, kind="stable"))
    positive = ordered.scores > 0
    best = [np.flatnonzero(positive & (ordered.class_index == index))[: recipe.k] for index in set(classes)]
    return ordered.take(np.sort(np.concatenate([np.zeros(0, np.int64), *best])))
