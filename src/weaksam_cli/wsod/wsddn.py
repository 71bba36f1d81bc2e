"""WSDDN: two streams over proposals, whose product scores them, learned from the image's labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import Method, Outputs, Regions
from weaksam_cli.wsod.stage import DetectorRecipe, detector_steps

if TYPE_CHECKING:
    from torch import Tensor


class Wsddn(Method):
    """The two streams.

    Attributes:
        prior_weight: power of the class maps' prior over proposals that the softmax over proposals starts from, in training;
            0 leaves class maps out.
    """

    method: Literal["wsddn"] = "wsddn"
    prior_weight: float = Field(default=0.0, ge=0, le=100)

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img`: binary cross entropy of the image's class scores, summed over the classes."""
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        detection_logits = outputs.detection_logits
        if self.prior_weight and regions.prior is not None:
            detection_logits = detection_logits + self.prior_weight * regions.prior.log()
        scores = wsddn_scores(outputs.class_logits, detection_logits)
        return {"loss_img": wsddn_loss_sum(scores, regions.image_labels)}


class Recipe(Wsddn, DetectorRecipe):
    """WSDDN on either network."""

    without_prior: ClassVar[Mapping[str, object]] = {"prior_weight": 0}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Wsddn), context, split)
