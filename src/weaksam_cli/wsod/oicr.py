"""OICR as in the published fork of WSOD2: branches that learn from the best proposals of the one before (spec 04 §B)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import BranchWeights, Method, Outputs, Regions
from weaksam_cli.wsod.stage import DetectorRecipe, detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.mining import Assignment, PseudoBoxes


class PriorUse(RecipeModel):
    """What class maps have to do with mining.

    Attributes:
        prior_weight: power of the class maps' prior that scores are multiplied with; 0 leaves class maps out.
        first: what the first branch is mined from: WSDDN's scores (times the prior), or the `prior` alone.
    """

    prior_weight: float = Field(default=0.0, ge=0, le=100)
    first: Literal["scores", "prior"] = "scores"


class LabelSettings(PriorUse):
    """What proposals learn from the seeds of each branch.

    Attributes:
        inclusive: IoU takes corners as inclusive pixel indexes and does not count the last pixel, as the published code
            does; otherwise corners are pixel edges.
        foreground_iou: proposals from this IoU with a seed on are foreground.
        ignore_iou: proposals below this IoU with all seeds weigh nothing: 0.1 in the original OICR.
        weights: `score` weighs a proposal by its seed's score, as published; `one` weighs all alike; `balanced` gives
            foreground and background fixed shares of an image's loss.
        foreground_share: foreground's share with `balanced`.
        branch_weights: of the branches' losses; there are as many branches.
    """

    inclusive: bool = False
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    ignore_iou: float = Field(default=0.0, ge=0, lt=1)
    weights: Literal["score", "one", "balanced"] = "score"
    foreground_share: float = Field(default=0.25, gt=0, lt=1)
    branch_weights: BranchWeights = (1.0, 1.0, 1.0)


class MiningSettings(LabelSettings):
    """Seeds of each branch, and what proposals learn from them.

    Attributes:
        ratio: seeds score at least this share of the class's best; 1 takes the best alone.
        nms: IoU above which seeds give way.
        class_wise: suppress within a class only; the published code may lose a class's only seed to another class.
    """

    ratio: float = Field(default=0.9, gt=0, le=1)
    nms: float = Field(default=0.5, gt=0, le=1)
    class_wise: bool = False


class PriorMethod(Method):
    """A method that can mine with class maps as a prior over proposals."""

    mining: PriorUse

    def first_source(self, scores: Tensor) -> Tensor:
        """What the first branch is mined from, given the streams' scores (R, C)."""
        import torch

        return torch.ones_like(scores) if self.mining.first == "prior" else scores

    def with_prior(self, source: Tensor, regions: Regions) -> Tensor:
        """Scores (R, C) times the power of the class maps' prior that the settings say, where there is one."""
        weight = self.mining.prior_weight
        return source if not weight or regions.prior is None else source * regions.prior**weight


class Refining(PriorMethod):
    """WSDDN's two streams, and branches that learn from seeds among the proposals: what OICR and its descendants share.

    The seeds are the best proposal of each class, as in the original OICR.
    """

    mining: LabelSettings = LabelSettings()

    @property
    def branches(self) -> int:
        """One for each weight."""
        return len(self.mining.branch_weights)

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img` of WSDDN, and what `refine` gives."""
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        refined = self.refine(outputs, scores.detach(), regions, lambda source: self.mine(source, regions))
        return {"loss_img": wsddn_loss_sum(scores, regions.image_labels)} | refined

    def refine(
        self, outputs: Outputs, scores: Tensor, regions: Regions, mine: Callable[[Tensor], Assignment]
    ) -> dict[str, Tensor]:
        """`loss_ref_cls<i>` of each branch, and `loss_ref_reg<i>` where it regresses boxes.

        Args:
            outputs: of the heads.
            scores: (R, C), what the first branch is mined from.
            regions: the proposals.
            mine: from scores (R, C) to what each proposal learns.
        """
        from weaksam_cli.wsod.losses import OICR_EPSILON, refinement_losses

        first = self.first_source(scores)
        boxes, weights = self.compared(regions.boxes), self.mining.branch_weights
        return refinement_losses(outputs, first, boxes, mine, weights, epsilon=OICR_EPSILON)

    def mine(self, source: Tensor, regions: Regions) -> Assignment:
        """What each proposal learns from scores (R, C)."""
        return self.assign(self.seeds(self.with_prior(source, regions), regions), regions)

    def seeds(self, source: Tensor, regions: Regions) -> PseudoBoxes:
        """Pseudo boxes, as IoU takes boxes, from scores (R, C)."""
        from weaksam_cli.wsod.mining import top_one_pseudo_boxes

        return top_one_pseudo_boxes(source, self.compared(regions.boxes), regions.image_labels)

    def assign(self, pseudo: PseudoBoxes, regions: Regions) -> Assignment:
        """What each proposal learns from seeds."""
        import torch

        from weaksam_cli.wsod.mining import assign, balanced_weights

        settings, boxes = self.mining, self.compared(regions.boxes)
        if settings.weights != "score":
            pseudo = replace(pseudo, scores=torch.ones_like(pseudo.scores))
        mined = assign(boxes, pseudo, foreground_iou=settings.foreground_iou, ignore_iou=settings.ignore_iou)
        if settings.weights != "balanced" or not len(pseudo):
            return mined
        balance = balanced_weights(mined.labels, settings.foreground_share)
        return replace(mined, weights=mined.weights * balance)

    def compared(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) on pixel edges as IoU and box regression take them."""
        from weaksam_cli.wsod.mining import without_last_pixel

        return without_last_pixel(boxes) if self.mining.inclusive else boxes


class NearBest(Refining):
    """Seeds are all proposals near the best of their class, thinned by NMS, as in WSOD2's OICR."""

    mining: MiningSettings = MiningSettings()

    def seeds(self, source: Tensor, regions: Regions) -> PseudoBoxes:
        """Pseudo boxes, as IoU takes boxes, from scores (R, C)."""
        from weaksam_cli.wsod.mining import max_ratio_pseudo_boxes

        settings = self.mining
        return max_ratio_pseudo_boxes(
            source,
            self.compared(regions.boxes),
            regions.image_labels,
            ratio=settings.ratio,
            nms_threshold=settings.nms,
            class_wise=settings.class_wise,
        )


class Oicr(NearBest):
    """WSDDN's two streams and refinement branches."""

    method: Literal["oicr"] = "oicr"


class RefiningRecipe(PriorMethod, DetectorRecipe):
    """A method that can mine with class maps, on either network."""

    without_prior: ClassVar[Mapping[str, object]] = {"mining.prior_weight": 0}

    @model_validator(mode="after")
    def _prior_weighs(self) -> Self:
        if self.mining.first == "prior" and not self.mining.prior_weight:
            raise ValueError("mining.first: the prior needs a prior_weight above 0")
        return self


class Recipe(Oicr, RefiningRecipe):
    """OICR on either network."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Oicr), context, split)
