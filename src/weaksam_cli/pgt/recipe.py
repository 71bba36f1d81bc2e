"""What can be said about the selection of pseudo ground truth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam_cli.engine.recipes import RecipeModel


class AdaptiveRecipe(RecipeModel):
    """Adaptive pseudo ground truth: class filter, relative scores, containment.

    Attributes:
        score_threshold: least relative score of a box that is not the first of its class in the image (tau_s).
        containment_threshold: a box that lies inside another of its class by at least this share is dropped (tau_o).
        sort_first: take the best box of a class as the first, not the first in the list.
        mutual: what happens to boxes that contain each other.
        containment_input: `as_released` compares boxes whose width was added twice, as the released script would.
        saved_score: the detector's score, or the relative one that the published files hold.
    """

    method: Literal["adaptive"] = "adaptive"
    score_threshold: float = Field(default=0.3, ge=0)
    containment_threshold: float = Field(default=0.85, gt=0, le=1)
    sort_first: bool = True
    mutual: Literal["drop_both", "keep_best"] = "drop_both"
    containment_input: Literal["fix", "as_released"] = "fix"
    saved_score: Literal["detector", "relative"] = "detector"


class Top1Recipe(RecipeModel):
    """The k best boxes of every image-level label."""

    method: Literal["top1"] = "top1"
    k: int = Field(default=1, ge=1)


PgtRecipe = AdaptiveRecipe | Top1Recipe
