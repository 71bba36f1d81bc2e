"""Mask R-CNN on pseudo instance labels (paper, supplement section 6; spec 06 C).

detectron2's own mask head beside the box head of `faster_rcnn`. The paper trains it without RoI drop; here it may be on, and
then leaves regions out of the two losses of the box head, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.retrain.both import BothSettings
from weaksam_cli.retrain.choice import ChoiceSettings
from weaksam_cli.retrain.rcnn import RcnnSettings
from weaksam_cli.retrain.settings import InferenceSettings, Width, keys_of
from weaksam_cli.retrain.stage import train_then_detect


class MaskHead(RecipeModel):
    """The layers that draw masks, in detectron2's terms.

    Attributes:
        first_level: finest level of the pyramid that masks are pooled from; null: as boxes are.
        convolutions: 3 x 3, before the transposed one that doubles the side.
        channels: of all of them.
        pooled: side of a pooled RoI in cells; a mask has twice as many.
        sampling_ratio: samples for each bin of RoIAlign and axis; 0 adapts to the RoI's size.
        class_agnostic: one mask for all classes, which a few objects a class can teach.
    """

    first_level: Literal[2, 3, 4] | None = None
    convolutions: Annotated[int, Field(ge=0, le=16), "MODEL.ROI_MASK_HEAD.NUM_CONV"] = 4
    channels: Annotated[Width, "MODEL.ROI_MASK_HEAD.CONV_DIM"] = 256
    pooled: Annotated[int, Field(ge=1, le=128), "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"] = 14
    sampling_ratio: Annotated[int, Field(ge=0, le=16), "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO"] = 0
    class_agnostic: Annotated[bool, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"] = False


class ModelSettings(RcnnSettings):
    """What decides the model."""

    learns_masks: ClassVar[bool] = True
    method: Literal["mask_rcnn"] = "mask_rcnn"
    mask_head: MaskHead = MaskHead()

    @property
    def finest_level(self) -> int:
        """Of the pyramid, for all heads together."""
        return min(self.detector.first_level, self._mask_level)

    @property
    def _mask_level(self) -> int:
        return self.mask_head.first_level or self.detector.first_level

    def detectron_keys(self) -> dict[str, Any]:
        """All of this in detectron2's configuration, the schedule apart: key -> value."""
        levels = [f"p{level}" for level in range(self._mask_level, 6)]
        keys = {
            "MODEL.MASK_ON": True,
            "MODEL.ROI_MASK_HEAD.IN_FEATURES": levels,
            "INPUT.MASK_FORMAT": "bitmask",
        }
        return super().detectron_keys() | keys_of(self.mask_head) | keys


class Recipe(ModelSettings, InferenceSettings, ChoiceSettings):
    """Training on pseudo instance labels, detection with the trained model, and whether it is handed over."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The model, from the training split; then boxes and masks of this split, and the choice by its labels."""
    return train_then_detect(
        recipe.part(ModelSettings),
        recipe.part(InferenceSettings),
        BothSettings(),  # WSOD has no masks
        recipe.part(ChoiceSettings),
        context,
        split,
    )
