"""Losses of the embedded detectors: WSDDN's and OICR's, with class maps as a prior for mining and balanced weights."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam_cli.wsod.losses import OICR_EPSILON, refinement_loss, wsddn_loss_sum, wsddn_scores
from weaksam_cli.wsod.mining import BACKGROUND, Assignment, assign, max_ratio_pseudo_boxes
from weaksam_cli.wsod.objectives import HeadOutputs
from weaksam_cli.wsod.recipe import MiningSettings, RegionDetectorRecipe


def balanced_weights(labels: Tensor, foreground_share: float) -> Tensor:
    """Weights (R,) that give foreground and background fixed shares of an image's loss, averaged over its R proposals.

    An image with one kind alone has weight 1 everywhere.

    Args:
        labels: int64 (R,), -1 for background.
        foreground_share: what foreground proposals weigh together.
    """
    foreground = labels != BACKGROUND
    total, positive = len(labels), int(foreground.sum())
    if positive in (0, total):
        return torch.ones(total, device=labels.device)
    weights = torch.full((total,), (1 - foreground_share) * total / (total - positive), device=labels.device)
    weights[foreground] = foreground_share * total / positive
    return weights


def mine(
    source: Tensor, boxes: Tensor, image_labels: Tensor, prior: Tensor, recipe: RegionDetectorRecipe
) -> Assignment:
    """Pseudo boxes from scores (R, C) times the prior's power, and what each proposal learns from them."""
    settings: MiningSettings = recipe.mining
    weight = recipe.prior.mining_weight
    scores = source * (prior + recipe.prior.floor) ** weight if weight else source
    pseudo = max_ratio_pseudo_boxes(
        scores,
        boxes,
        image_labels,
        ratio=settings.ratio,
        nms_threshold=settings.nms,
        class_wise=settings.class_wise,
    )
    mined = assign(boxes, pseudo, foreground_iou=settings.foreground_iou)
    if settings.weights == "score" or not len(pseudo):
        return mined
    return Assignment(mined.labels, balanced_weights(mined.labels, settings.foreground_share), mined.matched)


def region_losses(
    outputs: HeadOutputs, boxes: Tensor, image_labels: Tensor, prior: Tensor, recipe: RegionDetectorRecipe
) -> dict[str, Tensor]:
    """Losses of one image: `loss_img`, and `loss_ref_cls<i>` of each branch.

    Args:
        outputs: of the heads for R proposals.
        boxes: (R, 4), xyxy.
        image_labels: (C,), 1 for the classes of the image.
        prior: (R, C), class maps' prior; 0 for absent classes.
        recipe: what is trained.
    """
    source = wsddn_scores(outputs.class_logits, outputs.detection_logits)
    losses = {"loss_img": wsddn_loss_sum(source, image_labels)}
    use_prior_alone = recipe.prior.first == "prior" and recipe.prior.mining_weight > 0
    source = torch.ones_like(source) if use_prior_alone else source.detach()
    for index, logits in enumerate(outputs.refinement_logits):
        mined = mine(source, boxes, image_labels, prior, recipe)
        losses[f"loss_ref_cls{index}"] = refinement_loss(
            logits, mined.labels, mined.weights, epsilon=OICR_EPSILON
        )
        source = logits.detach().softmax(dim=1)[:, 1:]
    return losses
