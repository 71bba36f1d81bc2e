"""RoI heads of the retrained detector: detectron2's, with RoI drop, a choice of matcher, and a pretrained map as context.

RoI drop: regions whose training losses are suspiciously large do not teach (paper, supplement sections 3 and 7). Pseudo
ground truth holds wrong boxes, and the regions matched to them keep a large loss. From a start iteration on, such regions
are dropped: their losses count as zero.

The published code meant to do this but cannot run with the drop switched on: it concatenates a tensor with the tuple of
`torch.where`, and, that repaired, uses RoI numbers as positions in the list of foreground RoIs, which zeroes a wrong
entry or fails as soon as a batch holds more than one image. Here both lists are kept apart. Which rule gave the
published figures cannot be told from the release, so three are offered (`settings.RoiDrop`).

Importing this module registers `WeakSamRoiHeads` with detectron2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
from weaksam_cli.retrain.rcnn import RoiDrop  # noqa: E402


class Dropped(NamedTuple):
    """Which losses do not count.

    Attributes:
        classification: bool (R,), over all sampled RoIs.
        regression: bool (F,), over the foreground RoIs, in the order of `foreground`.
    """

    classification: Tensor
    regression: Tensor


class RegionLosses(NamedTuple):
    """What each sampled RoI would be taught.

    Attributes:
        classes: int64 (R,), the class that it is to be; the number of classes is background.
        classification: float (R,), cross-entropy, natural logarithm.
        foreground: int64 (F,), positions of the foreground RoIs among the R.
        regression: float (F,), L1 distance summed over four weighted deltas, in the order of `foreground`.
    """

    classes: Tensor
    classification: Tensor
    foreground: Tensor
    regression: Tensor


def find_dropped(cross_entropy: Tensor, distances: Tensor, foreground: Tensor, drop: RoiDrop) -> Dropped:
    """Which of R RoIs are dropped from which loss.

    Args:
        cross_entropy: float (R,), classification loss of every RoI.
        distances: float (F,), regression loss of the foreground RoIs.
        foreground: int64 (F,), positions of the foreground RoIs among the R.
        drop: which losses are large, and what follows from it.
    """
    large_cls = cross_entropy > drop.tau_cls
    large_reg = distances > drop.tau_reg
    if drop.semantics == "separate":
        return Dropped(large_cls, large_reg)
    combine = torch.logical_and if drop.semantics == "intersection" else torch.logical_or
    regression = combine(large_cls[foreground], large_reg)
    classification = torch.zeros_like(large_cls)
    classification[foreground] = regression
    return Dropped(classification, regression)


def reduce_losses(
    cross_entropy: Tensor, distances: Tensor, dropped: Dropped | None, *, divide_regression: bool
) -> tuple[Tensor, Tensor]:
    """Classification and regression loss, scalars; without `dropped` every RoI counts.

    Both are sums over the RoIs that count, divided by the number R of **all** RoIs; without `divide_regression` the
    second stays a sum.
    """
    if dropped is not None:
        cross_entropy = torch.where(dropped.classification, 0.0, cross_entropy)
        distances = torch.where(dropped.regression, 0.0, distances)
    count = max(len(cross_entropy), 1)
    regression = distances.sum()
    return cross_entropy.sum() / count, regression / count if divide_regression else regression


class Top3Matcher:
    """Which proposals are foreground: the three best of each ground truth whose own best IoU reaches the threshold.

    The published detector quietly replaced detectron2's matcher: of each ground-truth box only the three proposals of
    highest IoU are foreground, and every other proposal is background, also one of IoU 0.9. The paper does not mention it.
    With fewer than three proposals the published code fails; here it takes those there are.

    Args:
        threshold: a proposal whose best IoU is below is background.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Match proposals with ground truth.

        Args:
            quality: IoU float (M ground truths, N proposals).

        Returns:
            int64 (N,), the ground truth of highest IoU (0 where there is none), and int8 (N,), 1 foreground, 0 background.
        """
        truths, proposals = quality.shape
        labels = torch.zeros(proposals, dtype=torch.int8, device=quality.device)
        if truths == 0 or proposals == 0:
            return torch.zeros(proposals, dtype=torch.int64, device=quality.device), labels
        best, matches = quality.max(dim=0)
        # A stable sort, because topk leaves open which of equal proposals it takes.
        order = torch.sort(quality, dim=1, descending=True, stable=True).indices
        labels[order[:, :3].flatten()] = 1
        labels[best < self.threshold] = 0
        return matches, labels


class RoiDropOutputLayers(FastRCNNOutputLayers):
    """detectron2's box predictor whose losses leave dropped RoIs out.

    The iteration is that of detectron2's `EventStorage`, which the trainer keeps equal to its own, also after a resume.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(self, input_shape: Any, *, roi_drop: RoiDrop, **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        self.roi_drop = roi_drop

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Arguments from a detectron2 configuration with `MODEL.ROI_HEADS.DROP`."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["roi_drop"] = RoiDrop(**cfg.MODEL.ROI_HEADS.DROP)
        return arguments

    def region_losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Any]) -> RegionLosses:
        """The losses of each RoI by logits (R, K + 1) and deltas (R, 4 K) or (R, 4)."""
        logits, deltas = predictions
        classes = torch.cat([p.gt_classes for p in proposals])
        foreground = torch.nonzero((classes >= 0) & (classes < self.num_classes)).flatten()
        cross_entropy = F.cross_entropy(logits, classes, reduction="none")
        distances = self._distances(deltas, classes, foreground, proposals)
        return RegionLosses(classes, cross_entropy, foreground, distances)

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Any]) -> dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg` of logits (R, K + 1) and deltas (R, 4 K) or (R, 4); see `reduce_losses`."""
        _, cross_entropy, foreground, distances = self.region_losses(predictions, proposals)
        drop, dropped = self.roi_drop, None
        if drop.active(get_event_storage().iter):
            dropped = find_dropped(cross_entropy.detach(), distances.detach(), foreground, drop)
        divide = dropped is None or drop.normalisation == "over_R"
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
        by_class = deltas.view(-1, deltas.shape[1] // 4, 4)
        column = classes[foreground] if by_class.shape[1] > 1 else torch.zeros_like(foreground)
        chosen = by_class[foreground, column]
        return F.smooth_l1_loss(chosen, targets, beta=self.smooth_l1_beta, reduction="none").sum(dim=1)


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


def _pool_densely(pooler: Any, head: CfgNode, device: str) -> None:
    """Let a head's pooler work as a processor is fastest, where its number of samples is fixed."""
    samples = head.POOLER_SAMPLING_RATIO
    if device == "cpu" and samples > 0:
        pooler.level_poolers = nn.ModuleList(
            DenseRoiAlign(head.POOLER_RESOLUTION, level.spatial_scale, samples)
            for level in pooler.level_poolers
        )


@ROI_HEADS_REGISTRY.register()
class WeakSamRoiHeads(StandardROIHeads):
    """`StandardROIHeads` that reads `MODEL.ROI_HEADS.{DROP,MATCHER}`, `MODEL.ROI_MASK_HEAD.IN_FEATURES` (none: as boxes) and
    `MODEL.BACKBONE.CONTEXT`."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Arguments from a detectron2 configuration."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        if cfg.MODEL.ROI_HEADS.MATCHER == "top3":
            arguments["proposal_matcher"] = Top3Matcher(cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0])
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._init_box_head(cfg, input_shape)
        _pool_densely(arguments["box_pooler"], cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.DEVICE)
        context = cfg.MODEL.BACKBONE.CONTEXT
        if context:
            arguments["box_head"] = _WithContext(arguments["box_head"], context, input_shape[context])
        arguments["box_predictor"] = RoiDropOutputLayers(cfg, arguments["box_head"].output_shape)
        return arguments

    @classmethod
    def _init_mask_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        levels = cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES
        if levels:
            cfg = cfg.clone()
            cfg.MODEL.ROI_HEADS.IN_FEATURES = levels
        arguments: dict[str, Any] = super()._init_mask_head(cfg, input_shape)
        if arguments:
            _pool_densely(arguments["mask_pooler"], cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.DEVICE)
        return arguments

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Any]) -> Any:
        if not isinstance(self.box_head, _WithContext):
            return super()._forward_box(features, proposals)
        predictions = self._predict(features, proposals)
        if self.training:
            return self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0]

    def _predict(self, features: dict[str, Tensor], proposals: list[Any]) -> tuple[Tensor, Tensor]:
        boxes = [item.proposal_boxes for item in proposals]
        pooled = self.box_pooler([features[name] for name in self.box_in_features], boxes)
        around = (features[self.box_head.name], boxes) if isinstance(self.box_head, _WithContext) else ()
        predictions: tuple[Tensor, Tensor] = self.box_predictor(self.box_head(pooled, *around))
        return predictions

    def region_losses(self, features: dict[str, Tensor], sampled: list[Any]) -> RegionLosses:
        """The losses of each RoI of `label_and_sample_proposals`, which nobody learns from."""
        found: RegionLosses = self.box_predictor.region_losses(self._predict(features, sampled), sampled)
        return found


def add_roi_heads_config(cfg: CfgNode) -> None:
    """Add what these heads read to a detectron2 configuration."""
    cfg.MODEL.ROI_HEADS.MATCHER = "standard"
    cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES = []
    cfg.MODEL.ROI_HEADS.DROP = CfgNode(RoiDrop(enabled=False).model_dump())
