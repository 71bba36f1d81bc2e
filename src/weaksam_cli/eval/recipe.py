"""What can be said about an evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from weaksam_cli.engine.recipes import RecipeModel

CorlocName = Literal["weaksam", "mist", "detectron2"]
VocName = Literal["weaksam", "weaksam-area", "mist", "wsod2", "dino", "detectron2-2007", "detectron2-2012"]


class EvalRecipe(RecipeModel):
    """Which protocols are computed.

    Attributes:
        recall_thresholds: IoU thresholds of proposal recall.
        recall_budgets: numbers of proposals kept of an image at which recall is computed, beside all of them.
        strict_denominator: count the objects of images without proposals as missed.
        include_difficult: count difficult objects in proposal recall.
        corloc: protocols; the first is the headline.
        voc_ap: protocols; the first is the headline.
        coco_ap: compute COCO's AP as well.
        ring_factor: ring of the class-map contrast baseline, relative to the box.
    """

    method: Literal["all"] = "all"
    recall_thresholds: tuple[float, ...] = Field(default=(0.5, 0.75, 0.9), min_length=1)
    recall_budgets: tuple[PositiveInt, ...] = (10, 20, 50, 100, 200, 300, 500, 1000)
    strict_denominator: bool = True
    include_difficult: bool = True
    corloc: tuple[CorlocName, ...] = ("mist", "weaksam", "detectron2")
    voc_ap: tuple[VocName, ...] = ("weaksam", "weaksam-area", "mist")
    coco_ap: bool = True
    ring_factor: float = Field(default=1.8, gt=1)

    @model_validator(mode="after")
    def _budgets_increase(self) -> Self:
        if list(self.recall_budgets) != sorted(set(self.recall_budgets)):
            raise ValueError(f"recall_budgets: expected increasing numbers, got {list(self.recall_budgets)}")
        return self
