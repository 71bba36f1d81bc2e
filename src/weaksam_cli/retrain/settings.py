"""What can be said about a detector of detectron2 that is trained on pseudo ground truth, shared by all such methods."""

from __future__ import annotations

from functools import cache, reduce
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from weaksam_cli.core.settings import Iteration, RecipeModel, Side, Weight, read_yaml_mapping, stages_folder
from weaksam_cli.retrain.schedule import Fraction, Schedule

Count = Annotated[int, Field(ge=1, le=100_000)]
Width = Annotated[int, Field(ge=1, le=4096)]
Sides = Annotated[tuple[Side, ...], Field(min_length=1, max_length=50)]
LongSide = Annotated[int, Field(ge=32, le=8192)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
_PIXELS: Final = {
    "imagenet_rgb": ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "msra_bgr": ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),
}


@cache
def read_network(name: str) -> dict[str, Any]:
    """`stages/retrain/networks/NAME.yaml`: `base` and `detectron2`, and what a recipe may choose (`allows`)."""
    return read_yaml_mapping(stages_folder() / "retrain" / "networks" / f"{name}.yaml")


def keys_of(settings: RecipeModel) -> dict[str, Any]:
    """The fields that have a key in detectron2's configuration, which stands in their types: key -> value."""
    return {
        key: getattr(settings, name)
        for name, field in type(settings).model_fields.items()
        for key in field.metadata
        if isinstance(key, str)
    }


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


class Backbone(RecipeModel):
    """What extracts features.

    Attributes:
        weights: `imagenet` (lite0: the installed package), `random`, or a file: detectron2's R-50.pkl, a torchvision
            ResNet-50 as .pth or .safetensors.
        freeze_at: lite0: 1 freezes the stem, k + 1 also the first k of seven stages; ResNet-50: detectron2's FREEZE_AT.
        norm: `frozen` for pretrained weights; `batch` is needed when a ResNet-50 starts from random weights.
        pixels: `imagenet_rgb` (RGB, mean and deviation) or `msra_bgr` (BGR, mean only), as the weights were trained.
    """

    weights: Annotated[str, "MODEL.BACKBONE.WEIGHTS"] = "imagenet"
    freeze_at: Annotated[int, Field(ge=0, le=8), "MODEL.BACKBONE.FREEZE_AT"] = 4
    norm: Literal["frozen", "batch"] = "frozen"
    pixels: Annotated[Literal["imagenet_rgb", "msra_bgr"], "MODEL.BACKBONE.PIXELS"] = "imagenet_rgb"


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
        context: lite0: join the box head's features with the average of the pretrained last map over the RoI.
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


class TrainImages(RecipeModel):
    """Augmentation of the training images.

    Attributes:
        short_sides: an image's shorter side becomes one of these, drawn for each image and step.
        max_size: largest longer side.
        flip: mirror half of the images.
        keep_empty: train also on images without pseudo boxes, as background.
    """

    short_sides: Annotated[Sides, "INPUT.MIN_SIZE_TRAIN"]
    max_size: Annotated[LongSide, "INPUT.MAX_SIZE_TRAIN"]
    flip: bool = True
    keep_empty: bool = False


class Inference(RecipeModel):
    """Prediction with the trained detector.

    Attributes:
        short_side, max_size: size of the images.
        score_threshold: detections below are left out.
        nms: IoU above which the lower of two detections of a class is suppressed.
        detections: at most so many for each image.
        augment: run at all `augment_short_sides`, flipped too with `augment_flip`, and unite the detections.
        augment_short_sides, augment_max_size, augment_flip: the test-time augmentation.
    """

    short_side: Side
    max_size: LongSide
    score_threshold: Annotated[Fraction, "MODEL.ROI_HEADS.SCORE_THRESH_TEST"] = 0.05
    nms: Annotated[Fraction, "MODEL.ROI_HEADS.NMS_THRESH_TEST"] = 0.5
    detections: Annotated[Count, "TEST.DETECTIONS_PER_IMAGE"] = 100
    augment: Annotated[bool, "TEST.AUG.ENABLED"] = False
    augment_short_sides: Annotated[Sides, "TEST.AUG.MIN_SIZES"] = (480, 576, 688, 864, 1000, 1800)
    augment_max_size: Annotated[LongSide, "TEST.AUG.MAX_SIZE"] = 2000
    augment_flip: Annotated[bool, "TEST.AUG.FLIP"] = True


class InferenceSettings(RecipeModel):
    """All that decides the detections of a trained model, which knows its own network."""

    inference: Inference


class DetectorSettings(RecipeModel):
    """All that decides how a detector is trained on pseudo ground truth (published configurations: table A.5).

    Attributes:
        network: a file of `stages/retrain/networks`.
        learns_masks: whether the pseudo ground truth has to have masks; of the method, not of a recipe.
    """

    learns_masks: ClassVar[bool] = False
    network: str
    backbone: Backbone = Backbone()
    detector: Detector = Detector()
    schedule: Schedule
    train_images: TrainImages
    roi_drop: RoiDrop = RoiDrop()

    @property
    def finest_level(self) -> int:
        """Of the pyramid, for all heads together."""
        return self.detector.first_level

    def resolved(self, images: int) -> Self:
        """The settings for so many training images: epochs and shares as iterations."""
        schedule, drop = self.schedule.resolved(images), self.roi_drop
        if drop.start_share is not None:
            start = round(drop.start_share * schedule.steps)
            drop = drop.model_copy(update={"start_iteration": start, "start_share": None})
        return self.model_copy(update={"schedule": schedule, "roi_drop": drop})

    def in_words(self, images: int) -> str:
        """A line about how the resolved settings train on so many images."""
        drop = self.roi_drop
        start = f"; RoI drop from iteration {drop.start_iteration}" if drop.enabled else ""
        return self.schedule.in_words(images) + start

    def detectron_keys(self) -> dict[str, Any]:
        """All of this in detectron2's configuration, the schedule apart: key -> value."""
        backbone, detector = self.backbone, self.detector
        order, mean, deviation = _PIXELS[backbone.pixels]
        keys = {
            "INPUT.FORMAT": order,
            "INPUT.RANDOM_FLIP": "horizontal" if self.train_images.flip else "none",
            "MODEL.PIXEL_MEAN": mean,
            "MODEL.PIXEL_STD": deviation,
            "MODEL.RESNETS.NORM": "FrozenBN" if backbone.norm == "frozen" else "BN",
            # MSRA's ResNet strides in the 1x1 convolution of a block, torchvision's in the 3x3.
            "MODEL.RESNETS.STRIDE_IN_1X1": backbone.pixels == "msra_bgr",
            "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in detector.anchor_sizes],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(detector.aspect_ratios)],
            "MODEL.ROI_HEADS.NAME": "WeakSamRoiHeads",
            "MODEL.ROI_HEADS.DROP": self.roi_drop.model_dump(),
        }
        context = {} if detector.context else {"MODEL.BACKBONE.CONTEXT": ""}
        return keys_of(backbone) | keys_of(detector) | keys_of(self.train_images) | keys | context

    @field_validator("network")
    @classmethod
    def _is_there(cls, name: str) -> str:
        name = name.removeprefix("faster-rcnn-")  # as it was called before Mask R-CNN had the same networks
        names = sorted(path.stem for path in (stages_folder() / "retrain" / "networks").glob("*.yaml"))
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return name

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        for key, allowed in read_network(self.network).get("allows", {}).items():
            value = reduce(getattr, key.split("."), self)
            if value not in allowed:
                choice = ", ".join(str(item).lower() for item in allowed)
                raise ValueError(f"{key}: {self.network} takes {choice} only, got {str(value).lower()}")
        return self
