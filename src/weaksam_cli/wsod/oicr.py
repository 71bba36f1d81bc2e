"""OICR as in the published fork of WSOD2: branches that learn from the best proposals of the one before (spec 04 §B)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import BranchWeights, Method, Outputs, Regions
from weaksam_cli.wsod.stage import DetectorRecipe, detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.mining import Assignment


class MiningSettings(RecipeModel):
    """Pseudo boxes of each branch.

    Attributes:
        ratio: seeds score at least this share of the class's best; 1 takes the best alone.
        nms: IoU above which seeds give way.
        class_wise: suppress within a class only; the published code may lose a class's only seed to another class.
        inclusive: IoU takes corners as inclusive pixel indexes and does not count the last pixel, as the published code
            does; otherwise corners are pixel edges.
        foreground_iou: proposals from this IoU with a seed on are foreground.
        weights: `score` weighs a proposal by its seed's score, as published; `balanced` gives foreground and background
            fixed shares of an image's loss.
        foreground_share: foreground's share with `balanced`.
        branch_weights: of the branches' losses; there are as many branches.
        prior_weight: power of the class maps' prior that scores are multiplied with; 0 leaves class maps out.
        first: what the first branch is mined from: WSDDN's scores (times the prior), or the `prior` alone.
    """

    ratio: float = Field(default=0.9, gt=0, le=1)
    nms: float = Field(default=0.5, gt=0, le=1)
    class_wise: bool = False
    inclusive: bool = False
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    weights: Literal["score", "balanced"] = "score"
    foreground_share: float = Field(default=0.25, gt=0, lt=1)
    branch_weights: BranchWeights = (1.0, 1.0, 1.0)
    prior_weight: float = Field(default=0.0, ge=0, le=100)
    first: Literal["scores", "prior"] = "scores"


class Oicr(Method):
    """WSDDN's two streams and refinement branches."""

    method: Literal["oicr"] = "oicr"
    mining: MiningSettings = MiningSettings()

    @property
    def branches(self) -> int:
        """One for each weight."""
        return len(self.mining.branch_weights)

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img` of WSDDN, and `loss_ref_cls<i>` of each branch."""
        import torch

        from weaksam_cli.wsod.losses import OICR_EPSILON, refinement_losses, wsddn_loss_sum, wsddn_scores

        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        first = torch.ones_like(scores) if self.mining.first == "prior" else scores.detach()
        return {"loss_img": wsddn_loss_sum(scores, regions.image_labels)} | refinement_losses(
            outputs,
            first,
            regions.boxes,
            lambda source: self.mine(source, regions),
            self.mining.branch_weights,
            epsilon=OICR_EPSILON,
        )

    def mine(self, source: Tensor, regions: Regions) -> Assignment:
        """What each proposal learns from scores (R, C)."""
        from weaksam_cli.wsod.mining import (
            assign,
            balanced_weights,
            max_ratio_pseudo_boxes,
            without_last_pixel,
        )

        settings = self.mining
        if settings.prior_weight and regions.prior is not None:
            source = source * regions.prior**settings.prior_weight
        boxes = without_last_pixel(regions.boxes) if settings.inclusive else regions.boxes
        pseudo = max_ratio_pseudo_boxes(
            source,
            boxes,
            regions.image_labels,
            ratio=settings.ratio,
            nms_threshold=settings.nms,
            class_wise=settings.class_wise,
        )
        mined = assign(boxes, pseudo, foreground_iou=settings.foreground_iou)
        if settings.weights == "score" or not len(pseudo):
            return mined
        return replace(mined, weights=balanced_weights(mined.labels, settings.foreground_share))


class Recipe(Oicr, DetectorRecipe):
    """OICR on either network."""

    @model_validator(mode="after")
    def _prior_is_known(self) -> Self:
        weight, network = self.mining.prior_weight, self.network
        if weight and not network.knows_prior:
            raise ValueError(f"mining.prior_weight: {network.name} has no prior of class maps; expected 0")
        if self.mining.first == "prior" and not weight:
            raise ValueError("mining.first: the prior needs a prior_weight above 0")
        return self


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Oicr), context, split)
