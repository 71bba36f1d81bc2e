"""WSDDN: two streams over proposals, whose product scores them, learned from the image's labels alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import Method, Outputs, Regions
from weaksam_cli.wsod.stage import DetectorRecipe, detector_steps

if TYPE_CHECKING:
    from torch import Tensor


class Wsddn(Method):
    """The two streams."""

    method: Literal["wsddn"] = "wsddn"

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img`: binary cross entropy of the image's class scores, summed over the classes."""
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        return {"loss_img": wsddn_loss_sum(scores, regions.image_labels)}


class Recipe(Wsddn, DetectorRecipe):
    """WSDDN on either network."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Wsddn), context, split)
