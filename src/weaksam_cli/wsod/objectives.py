"""The whole training losses of OICR and MIST for one image, by name (spec 04 §A.2, §B.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from weaksam_cli.wsod.losses import (
    OICR_EPSILON,
    box_regression_loss,
    refinement_loss,
    wsddn_loss_mean,
    wsddn_loss_sum,
    wsddn_scores,
)
from weaksam_cli.wsod.mining import Assignment, assign, max_ratio_pseudo_boxes, mist_pseudo_boxes

MIST_BRANCH_WEIGHTS: Final = (3.0, 1.0, 1.0)
OICR_BRANCH_WEIGHTS: Final = (1.0, 1.0, 1.0)
"""Weights of the refinement branches in order."""


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of the heads for the R proposals of one image; K is C + 1 with background first.

    Attributes:
        class_logits: (R, K) for MIST, (R, C) for OICR.
        detection_logits: as `class_logits`.
        refinement_logits: one (R, K) for each branch.
        deltas: one (R, 4 K) for each branch, or empty for a detector that regresses no boxes.
    """

    class_logits: Tensor
    detection_logits: Tensor
    refinement_logits: Sequence[Tensor]
    deltas: Sequence[Tensor] = field(default_factory=tuple)


def mist_losses(
    outputs: HeadOutputs,
    boxes: Tensor,
    image_labels: Tensor,
    *,
    share: float = 0.15,
    iou_threshold: float = 0.2,
    foreground_iou: float = 0.5,
    branch_weights: Sequence[float] = MIST_BRANCH_WEIGHTS,
    plus_one: bool = False,
) -> dict[str, Tensor]:
    """Losses of MIST with box regression: `loss_img`, and `loss_ref_cls<i>`, `loss_ref_reg<i>` for each branch.

    Each branch learns from pseudo boxes of the one before, the first from the proposal scores.

    Args:
        outputs: of the heads, C + 1 columns each.
        boxes: (R, 4), xyxy.
        image_labels: (C,), true or 1 for the classes of the image.
        share, iou_threshold: see `mining.mist_pseudo_boxes`.
        foreground_iou: see `mining.assign`.
        branch_weights: one for each branch.
        plus_one: boxes are inclusive pixel indexes; see `box_geometry`.
    """
    scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)

    def mine(source: Tensor) -> Assignment:
        pseudo = mist_pseudo_boxes(
            source, boxes, image_labels, share=share, iou_threshold=iou_threshold, plus_one=plus_one
        )
        return assign(boxes, pseudo, foreground_iou=foreground_iou, plus_one=plus_one)

    losses = {"loss_img": wsddn_loss_mean(scores, image_labels)}
    return losses | _branches(
        outputs, scores[:, 1:], boxes, mine, branch_weights, epsilon=0.0, plus_one=plus_one
    )


def oicr_losses(
    outputs: HeadOutputs,
    boxes: Tensor,
    image_labels: Tensor,
    *,
    ratio: float = 0.9,
    nms_threshold: float = 0.5,
    class_wise: bool = False,
    foreground_iou: float = 0.5,
    branch_weights: Sequence[float] = OICR_BRANCH_WEIGHTS,
) -> dict[str, Tensor]:
    """Losses of OICR as in the published fork: `loss_img`, and `loss_ref_cls<i>` for each branch.

    Args:
        outputs: of the heads, C columns for the first two, C + 1 for the branches.
        boxes: (R, 4), xyxy.
        image_labels: (C,), true or 1 for the classes of the image.
        ratio, nms_threshold, class_wise: see `mining.max_ratio_pseudo_boxes`.
        foreground_iou: see `mining.assign`.
        branch_weights: one for each branch.
    """
    scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)

    def mine(source: Tensor) -> Assignment:
        pseudo = max_ratio_pseudo_boxes(
            source, boxes, image_labels, ratio=ratio, nms_threshold=nms_threshold, class_wise=class_wise
        )
        return assign(boxes, pseudo, foreground_iou=foreground_iou)

    losses = {"loss_img": wsddn_loss_sum(scores, image_labels)}
    return losses | _branches(
        outputs, scores, boxes, mine, branch_weights, epsilon=OICR_EPSILON, plus_one=False
    )


def mean_losses(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The losses of a batch: each averaged over its images.

    Raises:
        ValueError: for a batch without images.
    """
    if not images:
        raise ValueError("images: expected at least one, got none")
    return {name: torch.stack([losses[name] for losses in images]).mean() for name in images[0]}


def _branches(
    outputs: HeadOutputs,
    first_source: Tensor,
    boxes: Tensor,
    mine: Callable[[Tensor], Assignment],
    branch_weights: Sequence[float],
    *,
    epsilon: float,
    plus_one: bool,
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = {}
    source = first_source
    for index, (logits, weight) in enumerate(zip(outputs.refinement_logits, branch_weights, strict=True)):
        mined = mine(source)
        classification = refinement_loss(logits, mined.labels, mined.weights, epsilon=epsilon)
        losses[f"loss_ref_cls{index}"] = weight * classification
        if outputs.deltas:
            regression = box_regression_loss(outputs.deltas[index], boxes, mined, plus_one=plus_one)
            losses[f"loss_ref_reg{index}"] = weight * regression
        source = logits.detach().softmax(dim=1)[:, 1:]
    return losses
