"""What can be said about a detector with a proposal network and RoI heads, Faster and Mask R-CNN (spec 06, table A.5)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import Iteration, RecipeModel, Weight
from weaksam_cli.retrain.schedule import Fraction
from weaksam_cli.retrain.settings import Count, DetectorSettings, Ratio, ResizedImages, Width, keys_of


class RoiDrop(RecipeModel):
    """RoI drop regularisation (supplement section 3 and Table 1).

    Attributes:
        enabled: False trains the plain detector.
        semantics: `intersection` drops a foreground RoI from both losses when both exceed their thresholds (what the
            last active lines of the published code mean to do); `separate` drops each loss on its own, the
            classification loss of background RoIs too (the paper's pipeline figure); `union_fg` drops a foreground RoI
            from both losses when either exceeds.
        normalisation: `over_R` divides the regression loss by the number of RoIs, as before the start; `released_sum`
            leaves the division out while the drop is on, as the published code does.
        tau_cls: threshold of a RoI's cross-entropy, natural logarithm; strict.
        tau_reg: threshold of a RoI's L1 distance summed over four weighted deltas; strict.
        start_iteration: first iteration with drop, 0-based.
        start_share: the same as a share of the schedule; where it is given, `start_iteration` is not used.
    """

    enabled: bool = True
    semantics: Literal["intersection", "separate", "union_fg"] = "intersection"
    normalisation: Literal["over_R", "released_sum"] = "over_R"
    tau_cls: Weight = 4.0
    tau_reg: Weight = 1.0
    start_iteration: Iteration = 2000
    start_share: Fraction | None = None

    def active(self, iteration: int) -> bool:
        """True when RoIs are dropped in `iteration`; it depends on nothing else, so it survives a resume."""
        return self.enabled and iteration >= self.start_iteration


class Detector(RecipeModel):
    """The layers above the backbone, in detectron2's terms.

    Attributes:
        first_level: finest level of the pyramid, 2 (stride 4), 3 (stride 8) or 4 (stride 16); the coarsest is always 6.
        channels: channels of the pyramid.
        anchor_sizes: one anchor size in pixels for each level, finest first.
        aspect_ratios: height over width of the anchors.
        rpn_batch: anchors that train the proposal network, for each image.
        rpn_before_nms_train, rpn_before_nms_test: proposals kept of each level before suppression.
        rpn_after_nms_train, rpn_after_nms_test: proposals of an image.
        roi_batch: RoIs that train the box head, for each image.
        roi_foreground: largest fraction of them that is foreground.
        box_head_channels: width of the box head's two layers.
        box_loss_weight: weight of the box head's regression loss.
        class_agnostic_boxes: one box regression for all classes, which a few boxes a class can teach.
        sampling_ratio: samples for each bin of RoIAlign and axis; 0 adapts to the RoI's size.
        context: lite: join the box head's features with the average of the pretrained last map over the RoI.
        matcher: `standard`, or `top3` of the published code (three proposals for each pseudo box).
    """

    first_level: Literal[2, 3, 4] = 3
    channels: Annotated[int, Field(ge=1, le=1024), "MODEL.FPN.OUT_CHANNELS"] = 96
    anchor_sizes: Annotated[tuple[Width, ...], Field(min_length=1, max_length=5)] = (32, 64, 128, 256)
    aspect_ratios: Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=20)] = (0.5, 1.0, 2.0)
    rpn_batch: Annotated[Count, "MODEL.RPN.BATCH_SIZE_PER_IMAGE"] = 128
    rpn_before_nms_train: Annotated[Count, "MODEL.RPN.PRE_NMS_TOPK_TRAIN"] = 500
    rpn_before_nms_test: Annotated[Count, "MODEL.RPN.PRE_NMS_TOPK_TEST"] = 500
    rpn_after_nms_train: Annotated[Count, "MODEL.RPN.POST_NMS_TOPK_TRAIN"] = 256
    rpn_after_nms_test: Annotated[Count, "MODEL.RPN.POST_NMS_TOPK_TEST"] = 256
    roi_batch: Annotated[Count, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"] = 64
    roi_foreground: Annotated[Fraction, "MODEL.ROI_HEADS.POSITIVE_FRACTION"] = 0.25
    box_head_channels: Annotated[Width, "MODEL.ROI_BOX_HEAD.FC_DIM"] = 256
    box_loss_weight: Annotated[Weight, Field(gt=0), "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"] = 1.0
    class_agnostic_boxes: Annotated[bool, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = False
    sampling_ratio: Annotated[int, Field(ge=0, le=16), "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"] = 2
    context: bool = False
    matcher: Annotated[Literal["standard", "top3"], "MODEL.ROI_HEADS.MATCHER"] = "standard"

    @model_validator(mode="after")
    def _one_anchor_size_per_level(self) -> Self:
        levels = 7 - self.first_level
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes: expected {levels} values for levels {self.first_level} to 6, "
                f"got {len(self.anchor_sizes)}"
            )
        return self


class RcnnSettings(DetectorSettings):
    """All that decides how a detector with RoI heads is trained on pseudo ground truth."""

    train_images: ResizedImages
    detector: Detector = Detector()
    roi_drop: RoiDrop = RoiDrop()

    @property
    def finest_level(self) -> int:
        """Of the pyramid, for all heads together."""
        return self.detector.first_level

    def resolved(self, images: int) -> Self:
        """The settings for so many training images: epochs and shares as iterations."""
        settings, drop = super().resolved(images), self.roi_drop
        if drop.start_share is not None:
            start = round(drop.start_share * settings.schedule.steps)
            drop = drop.model_copy(update={"start_iteration": start, "start_share": None})
        return settings.model_copy(update={"roi_drop": drop})

    def in_words(self, images: int) -> str:
        """A line about how the resolved settings train on so many images."""
        drop = self.roi_drop
        start = f"; RoI drop from iteration {drop.start_iteration}" if drop.enabled else ""
        return super().in_words(images) + start

    def detectron_keys(self) -> dict[str, Any]:
        """All of this in detectron2's configuration, the schedule apart: key -> value."""
        detector = self.detector
        keys = {
            "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in detector.anchor_sizes],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(detector.aspect_ratios)],
            "MODEL.ROI_HEADS.NAME": "WeakSamRoiHeads",
            "MODEL.ROI_HEADS.DROP": self.roi_drop.model_dump(),
        }
        context = {} if detector.context else {"MODEL.BACKBONE.CONTEXT": ""}
        return super().detectron_keys() | keys_of(detector) | keys | context

    def configure(self, cfg: Any) -> None:
        """Take the levels of the pyramid that the heads ask for."""
        cfg.MODEL.FPN.IN_FEATURES = cfg.MODEL.FPN.IN_FEATURES[self.finest_level - 2 :]
        for node in (cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS):
            node.IN_FEATURES = node.IN_FEATURES[self.detector.first_level - 2 :]
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES
