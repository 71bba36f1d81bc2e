"""RoI heads of the retrained detector: detectron2's, with RoI drop, a choice of matcher, and a pretrained map as context.

Importing this module registers `WeakSamRoiHeads` with detectron2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.config import CfgNode, configurable  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads  # noqa: E402
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers  # noqa: E402
from detectron2.utils.events import get_event_storage  # noqa: E402

from weaksam_cli.detectron.dense_roi_align import DenseRoiAlign, RoiAverage  # noqa: E402
from weaksam_cli.retrain.roi_drop import (  # noqa: E402
    TopKMatcher,
    find_dropped,
    foreground_indices,
    nothing_dropped,
    reduce_losses,
    regression_distances,
)
from weaksam_cli.retrain.settings import RoiDrop  # noqa: E402


class RoiDropOutputLayers(FastRCNNOutputLayers):
    """detectron2's box predictor whose losses leave dropped RoIs out.

    The iteration is that of detectron2's `EventStorage`, which the trainer keeps equal to its own, also after a resume.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(self, input_shape: Any, *, roi_drop: RoiDrop, **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        if self.box_reg_loss_type != "smooth_l1" or self.bbox_pred.out_features != self.num_classes * 4:
            raise ValueError("RoI drop is defined for class-specific smooth-L1 regression")
        self.roi_drop = roi_drop

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Arguments from a detectron2 configuration with `MODEL.ROI_HEADS.DROP`."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["roi_drop"] = RoiDrop(**cfg.MODEL.ROI_HEADS.DROP)
        return arguments

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Any]) -> dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg` of logits (R, K + 1) and deltas (R, 4 K); see `reduce_losses`."""
        logits, deltas = predictions
        classes = torch.cat([p.gt_classes for p in proposals])
        foreground = foreground_indices(classes, self.num_classes)
        cross_entropy = F.cross_entropy(logits, classes, reduction="none")
        distances = self._distances(deltas, classes, foreground, proposals)
        storage = get_event_storage()
        active = self.roi_drop.active(storage.iter)
        dropped = nothing_dropped(cross_entropy, distances)
        if active:
            dropped = find_dropped(
                cross_entropy.detach(),
                distances.detach(),
                foreground,
                tau_cls=self.roi_drop.tau_cls,
                tau_reg=self.roi_drop.tau_reg,
                semantics=self.roi_drop.semantics,
            )
            storage.put_scalar("roi_drop/classification", float(dropped.classification.sum()))
            storage.put_scalar("roi_drop/regression", float(dropped.regression.sum()))
        storage.put_scalar("roi_drop/foreground", float(len(foreground)))
        divide = not active or self.roi_drop.normalisation == "over_R"
        loss_cls, loss_reg = reduce_losses(cross_entropy, distances, dropped, divide_regression=divide)
        weights = self.loss_weight
        return {
            "loss_cls": loss_cls * weights.get("loss_cls", 1.0),
            "loss_box_reg": loss_reg * weights.get("loss_box_reg", 1.0),
        }

    def _distances(self, deltas: Tensor, classes: Tensor, foreground: Tensor, proposals: list[Any]) -> Tensor:
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        # An image without objects has no gt_boxes; its RoIs are background and their place is never read.
        matched = torch.cat(
            [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        )
        targets = self.box2box_transform.get_deltas(boxes[foreground], matched[foreground])
        chosen = deltas.view(-1, self.num_classes, 4)[foreground, classes[foreground]]
        return regression_distances(chosen, targets, self.smooth_l1_beta)


class _WithContext(nn.Module):
    """Features of RoIs from the pyramid, joined by the average of a pretrained map over the same RoIs.

    The pyramid and the box head start from random weights; the classification network's last map tells classes apart from
    the first iteration, which is what makes a training of a few epochs possible.
    """

    def __init__(self, box_head: Any, name: str, shape: ShapeSpec) -> None:
        super().__init__()
        self.box_head, self.name = box_head, name
        self.average = RoiAverage(1.0 / shape.stride, samples=4)
        self.output_shape = ShapeSpec(channels=box_head.output_shape.channels + shape.channels)

    def forward(self, pooled: Tensor, context: Tensor, boxes: list[Any]) -> Tensor:
        """Vectors (R, channels) of pooled pyramid features (R, c, h, w) and the map (n, channels, H, W)."""
        average = self.average(context, [item.tensor for item in boxes])
        return torch.cat([self.box_head(pooled), average], dim=1)


@ROI_HEADS_REGISTRY.register()
class WeakSamRoiHeads(StandardROIHeads):
    """`StandardROIHeads` that reads `MODEL.ROI_HEADS.{DROP,MATCHER}` and `MODEL.BACKBONE.CONTEXT`."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Arguments from a detectron2 configuration."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        if cfg.MODEL.ROI_HEADS.MATCHER == "top3":
            arguments["proposal_matcher"] = TopKMatcher(cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0], k=3)
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._init_box_head(cfg, input_shape)
        samples = cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
        if cfg.MODEL.DEVICE == "cpu" and samples > 0:
            pooler, bins = arguments["box_pooler"], cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            pooler.level_poolers = nn.ModuleList(
                DenseRoiAlign(bins, level.spatial_scale, samples) for level in pooler.level_poolers
            )
        context = cfg.MODEL.BACKBONE.CONTEXT
        if context:
            arguments["box_head"] = _WithContext(arguments["box_head"], context, input_shape[context])
        arguments["box_predictor"] = RoiDropOutputLayers(cfg, arguments["box_head"].output_shape)
        return arguments

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Any]) -> Any:
        if not isinstance(self.box_head, _WithContext):
            return super()._forward_box(features, proposals)
        boxes = [item.proposal_boxes for item in proposals]
        pooled = self.box_pooler([features[name] for name in self.box_in_features], boxes)
        predictions = self.box_predictor(self.box_head(pooled, features[self.box_head.name], boxes))
        if self.training:
            return self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0]


def add_roi_heads_config(cfg: CfgNode) -> None:
    """Add what these heads read to a detectron2 configuration."""
    cfg.MODEL.ROI_HEADS.MATCHER = "standard"
    cfg.MODEL.ROI_HEADS.DROP = CfgNode(RoiDrop(enabled=False).model_dump())
