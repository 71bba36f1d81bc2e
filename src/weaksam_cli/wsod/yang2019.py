"""Yang, Li and Dou (ICCV 2019): OICR with one more branch that regresses boxes, and guided attention on the backbone's map.

No code of it is known. From its abstract and introduction: one network is trained end to end, in which OICR's branches teach
a Fast R-CNN branch in the same step, and guided attention with a classification loss strengthens the map. Layers, weights
and thresholds are our reading (spec 10c §3). Its variant over PCL is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from pydantic import Field

from weaksam_cli.core.settings import RecipeModel, Weight
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import ClassBoxes, Outputs, Regions, Rois, Sizes
from weaksam_cli.wsod.oicr import LabelSettings, Refining, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weaksam_cli.wsod.detector import RegionHeads

_DELTA_SHARE: Final = 0.1
"""Of the heads' initial deviation, as other methods have it."""
_DEVIATION: Final = 0.01


class AttentionSettings(RecipeModel):
    """The guided attention module.

    Attributes:
        initial_bias: of the attention before its sigmoid. With 0 the map is one and a half times what fc6 was trained for at
            first, with -4 about what it was.
        weight: of its classification loss.
    """

    initial_bias: float = Field(default=0.0, ge=-100, le=100)
    weight: Weight = 1.0


class Yang2019(Refining, ClassBoxes):
    """OICR's branches, of which the last, with box regression, is the detector's; and attention on the map.

    Attributes:
        attention: null leaves it out.
    """

    method: Literal["yang2019"] = "yang2019"
    mining: LabelSettings = LabelSettings(ignore_iou=0.1, branch_weights=(1.0, 1.0, 1.0, 1.0))
    attention: AttentionSettings | None = AttentionSettings()

    @property
    def regressed(self) -> int:
        """The last branch."""
        return 1

    @property
    def delta_deviation(self) -> float:
        """Smaller than the other heads'."""
        return self.heads.initial_deviation * _DELTA_SHARE

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """`attend`: from the map to the attention's logits; `guide`: from the attention to logits of classes."""
        from torch import nn

        if self.attention is None:
            return {}
        attend = nn.Conv2d(sizes.channels, sizes.channels, 1)
        guide = nn.Conv2d(sizes.channels, sizes.classes, 1)
        for layer, bias in ((attend, self.attention.initial_bias), (guide, 0.0)):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=_DEVIATION)
            nn.init.constant_(layer.bias, bias)
        return {"attend": attend, "guide": guide}

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """RoIs are pooled from the map with attention; `image["guide"]` are its logits of classes, (images, C)."""
        if self.attention is None:
            return super().outputs_of_rois(heads, rois, neck)
        features = rois.maps[-1]
        attention = heads.get_submodule("attend")(features).sigmoid()
        guide = heads.get_submodule("guide")(attention).mean(dim=(2, 3)).float()
        found = self.outputs(heads, rois.pool(features * (1 + attention)), neck)
        return replace(found, image={"guide": guide})

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """OICR's, `loss_ref_reg<i>` of the last branch, and `loss_attention`, a mean over the classes."""
        import torch.nn.functional as F

        losses = super().losses(outputs, regions)
        if self.attention is None:
            return losses
        guided = F.binary_cross_entropy_with_logits(outputs.image["guide"][0], regions.image_labels)
        return losses | {"loss_attention": self.attention.weight * guided}

    def boxes(self, outputs: Outputs, boxes: Tensor) -> Tensor:
        """The regressed ones of each class, (R, C, 4)."""
        compared = self.compared(boxes)
        return super().boxes(outputs, compared) + (boxes - compared)[:, None]


class Recipe(Yang2019, RefiningRecipe):
    """The method on either network."""

    without_map: ClassVar[Mapping[str, object]] = {"attention": None}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Yang2019), context, split)
