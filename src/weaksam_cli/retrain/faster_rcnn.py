"""The two Faster R-CNNs as detectron2 models, built from the typed recipe."""

from __future__ import annotations

from torch import nn

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

from weaksam_cli.detectron import lite0_fpn  # noqa: E402
from weaksam_cli.retrain.heads import add_roi_heads_config  # noqa: E402
from weaksam_cli.retrain.recipe import Detector, FasterRcnnRecipe, Inference  # noqa: E402

_PIXELS: dict[str, tuple[str, list[float], list[float]]] = {
    "imagenet_rgb": ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "msra_bgr": ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),
}


def channel_order(recipe: FasterRcnnRecipe) -> str:
    """`RGB` or `BGR`, as the backbone's weights expect."""
    return _PIXELS[recipe.backbone.pixels][0]


def detectron_config(recipe: FasterRcnnRecipe, class_count: int, device: str) -> CfgNode:
    """detectron2's configuration of the recipe's network, for `class_count` classes on `device`."""
    cfg = get_cfg()
    lite0_fpn.add_lite0_config(cfg)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = _PIXELS[recipe.backbone.pixels]
    _configure_backbone(cfg, recipe)
    _configure_proposals(cfg, recipe.detector)
    _configure_box_head(cfg, recipe.detector, class_count)
    _configure_inference(cfg, recipe.inference)
    context = "head" if recipe.detector.context else ""
    add_roi_heads_config(cfg, recipe.roi_drop, recipe.detector.matcher, context)
    cfg.freeze()
    return cfg


def build_detector(recipe: FasterRcnnRecipe, class_count: int, device: str) -> tuple[CfgNode, nn.Module]:
    """detectron2's configuration and model; the layers that are not pretrained come from torch's random state.

    Raises:
        UserError: when a weights file is missing, damaged or of another network.
    """
    from weaksam_cli.detectron.weights import load_resnet50

    cfg = detectron_config(recipe, class_count, device)
    model: nn.Module = build_model(cfg)
    if recipe.network == "faster-rcnn-r50-fpn" and recipe.backbone.weights != "random":
        load_resnet50(model, recipe.backbone.weights, recipe.backbone.pixels)
    return cfg, model


def _configure_backbone(cfg: CfgNode, recipe: FasterRcnnRecipe) -> None:
    lite0 = recipe.network == "faster-rcnn-lite0-fpn"
    first = recipe.detector.first_level
    prefix = "c" if lite0 else "res"
    features = [f"{prefix}{level}" for level in range(first, 6)]
    cfg.MODEL.BACKBONE.FREEZE_AT = recipe.backbone.freeze_at
    cfg.MODEL.FPN.IN_FEATURES = features
    cfg.MODEL.FPN.OUT_CHANNELS = recipe.detector.channels
    if lite0:
        cfg.MODEL.BACKBONE.NAME = "build_weaksam_lite0_fpn_backbone"
        cfg.MODEL.LITE0.WEIGHTS = recipe.backbone.weights
        cfg.MODEL.LITE0.OUT_FEATURES = [*features, "head"] if recipe.detector.context else features
        return
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.OUT_FEATURES = features
    cfg.MODEL.RESNETS.NORM = "FrozenBN" if recipe.backbone.norm == "frozen" else "BN"
    # MSRA's ResNet strides in the 1x1 convolution of a block, torchvision's in the 3x3.
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = recipe.backbone.pixels == "msra_bgr"


def _configure_proposals(cfg: CfgNode, detector: Detector) -> None:
    levels = [f"p{level}" for level in range(detector.first_level, 7)]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in detector.anchor_sizes]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(detector.aspect_ratios)]
    rpn = cfg.MODEL.RPN
    rpn.IN_FEATURES = levels
    rpn.BATCH_SIZE_PER_IMAGE = detector.rpn_batch
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST = (
        detector.rpn_before_nms_train,
        detector.rpn_before_nms_test,
    )
    rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST = (
        detector.rpn_after_nms_train,
        detector.rpn_after_nms_test,
    )


def _configure_box_head(cfg: CfgNode, detector: Detector, class_count: int) -> None:
    heads = cfg.MODEL.ROI_HEADS
    heads.NUM_CLASSES = class_count
    heads.IN_FEATURES = [f"p{level}" for level in range(detector.first_level, 6)]
    heads.BATCH_SIZE_PER_IMAGE = detector.roi_batch
    heads.POSITIVE_FRACTION = detector.roi_foreground
    box = cfg.MODEL.ROI_BOX_HEAD
    box.NAME = "FastRCNNConvFCHead"
    box.NUM_FC = 2
    box.FC_DIM = detector.box_head_channels
    box.POOLER_RESOLUTION = 7
    box.POOLER_SAMPLING_RATIO = detector.sampling_ratio
    box.BBOX_REG_LOSS_WEIGHT = detector.box_loss_weight


def _configure_inference(cfg: CfgNode, inference: Inference) -> None:
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = inference.score_threshold
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = inference.nms
    cfg.TEST.DETECTIONS_PER_IMAGE = inference.detections
    cfg.TEST.AUG.MIN_SIZES = list(inference.augment_short_sides)
    cfg.TEST.AUG.MAX_SIZE = inference.augment_max_size
    cfg.TEST.AUG.FLIP = inference.augment_flip
