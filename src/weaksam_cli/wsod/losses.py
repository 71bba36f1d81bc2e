"""Losses of weakly supervised detectors, each about one image with R proposals and C classes (spec 04 §A.2, §B.2).

An image without proposals, or without pseudo boxes, has loss 0 and gradient 0 where the published code fails.
Labels are classes from 0, -1 for background; heads of C + 1 outputs have background first. Boxes are (n, 4), xyxy pixel
edges: the published MIST works on inclusive pixel indexes and counts sides with +1, which gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam_cli.wsod.method import Outputs
from weaksam_cli.wsod.mining import Assignment

MIST_CLAMP: Final = 1e-8
"""Image scores of MIST stay this far from 0 and 1."""

OICR_EPSILON: Final = 1e-6
"""Added to the probability inside OICR's logarithm; image scores of CBL and WSOVOD stay this far from 0 and 1."""

REGRESSION_WEIGHTS: Final = (10.0, 10.0, 5.0, 5.0)
"""Scales of (dx, dy, dw, dh), spec 04 §A.2."""

LARGEST_LOG_RATIO: Final = math.log(1000.0 / 16)
"""Decoded sides grow at most by this factor, on a log scale."""


def wsddn_scores(class_logits: Tensor, detection_logits: Tensor) -> Tensor:
    """Proposal scores: softmax over classes times softmax over the proposals of the image.

    Args:
        class_logits: (R, K), K being C, or C + 1 with background first.
        detection_logits: (R, K).

    Returns:
        Scores (R, K); each column sums to at most 1.
    """
    return class_logits.softmax(dim=1) * detection_logits.softmax(dim=0)


def wsddn_loss_sum(scores: Tensor, image_labels: Tensor) -> Tensor:
    """Binary cross entropy of the image's class scores, summed over the C classes, as in the published OICR.

    Args:
        scores: (R, C), from `wsddn_scores`, without background.
        image_labels: (C,), true or 1 for the classes of the image.
    """
    if not len(scores):
        return scores.sum()
    image = scores.sum(dim=0).clamp(0.0, 1.0)
    return F.binary_cross_entropy(image, image_labels.to(image.dtype), reduction="sum")


def wsddn_loss_mean(scores: Tensor, image_labels: Tensor) -> Tensor:
    """Binary cross entropy averaged over C + 1 columns, background being never there, as in the published MIST.

    Args:
        scores: (R, C + 1), from `wsddn_scores`, background first.
        image_labels: (C,), true or 1 for the classes of the image.
    """
    if not len(scores):
        return scores.sum()
    image = scores.sum(dim=0).clamp(MIST_CLAMP, 1 - MIST_CLAMP)
    target = F.pad(image_labels.to(image.dtype), (1, 0))
    return F.binary_cross_entropy(image, target, reduction="mean")


def wsddn_loss_of_classes(scores: Tensor, image_labels: Tensor) -> Tensor:
    """Binary cross entropy averaged over the C classes, as in CBL and WSOVOD (spec 10c §1.5, §2.6).

    Args:
        scores: (R, C), from `wsddn_scores`, without background.
        image_labels: (C,), true or 1 for the classes of the image.
    """
    if not len(scores):
        return scores.sum()
    image = scores.sum(dim=0).clamp(OICR_EPSILON, 1 - OICR_EPSILON)
    return F.binary_cross_entropy(image, image_labels.to(image.dtype))


def refinement_losses(
    outputs: Outputs,
    first: Tensor,
    boxes: Tensor,
    mine: Callable[[Tensor], Assignment],
    branch_weights: Sequence[float],
    *,
    epsilon: float = 0.0,
) -> dict[str, Tensor]:
    """`loss_ref_cls<i>` of each branch, and `loss_ref_reg<i>` where it regresses boxes.

    Each branch learns from pseudo boxes of the one before. Where fewer branches regress boxes, these are the last.

    Args:
        outputs: of the heads.
        first: (R, C), scores that the first branch is mined from.
        boxes: (R, 4), the proposals.
        mine: from scores (R, C) to what each proposal learns.
        branch_weights: one for each branch.
        epsilon: see `refinement_loss`.
    """
    losses: dict[str, Tensor] = {}
    plain = len(outputs.refinement_logits) - len(outputs.deltas)
    for index, (logits, weight) in enumerate(zip(outputs.refinement_logits, branch_weights, strict=True)):
        mined = mine(first)
        losses[f"loss_ref_cls{index}"] = weight * refinement_loss(
            logits, mined.labels, mined.weights, epsilon=epsilon
        )
        if index >= plain:
            regressed = box_regression_loss(outputs.deltas[index - plain], boxes, mined)
            losses[f"loss_ref_reg{index}"] = weight * regressed
        first = logits.detach().softmax(dim=1)[:, 1:]
    return losses


def refinement_loss(logits: Tensor, labels: Tensor, weights: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Weighted cross entropy of one refinement branch, averaged over all R proposals.

    Args:
        logits: (R, C + 1), background first.
        labels: int64 (R,), -1 for background.
        weights: (R,).
        epsilon: added to the probability inside the logarithm: `OICR_EPSILON` for the published OICR, 0 for MIST.
    """
    if not len(logits):
        return logits.sum()
    if epsilon > 0:
        chosen = logits.softmax(dim=1).gather(1, labels[:, None] + 1)[:, 0]
        losses = -torch.log(chosen + epsilon)
    else:
        losses = F.cross_entropy(logits, labels + 1, reduction="none")
    return (losses * weights).mean()


def box_regression_loss(deltas: Tensor, boxes: Tensor, assignment: Assignment) -> Tensor:
    """Smooth L1 (beta 1) of the foreground proposals' deltas of their own class, weighted, divided by all R proposals.

    Args:
        deltas: (R, 4 (C + 1)), class-specific, background first.
        boxes: (R, 4), the proposals.
        assignment: labels, weights and pseudo boxes of the proposals.
    """
    foreground = torch.nonzero(assignment.labels >= 0).flatten()
    if not len(foreground):
        return deltas.sum() * 0
    per_class = deltas.unflatten(1, (deltas.shape[1] // 4, 4))
    predicted = per_class[foreground, assignment.labels[foreground] + 1]
    targets = encode(assignment.matched[foreground], boxes[foreground]).to(predicted.dtype)
    distances = F.smooth_l1_loss(predicted, targets, beta=1.0, reduction="none").sum(dim=1)
    return (distances * assignment.weights[foreground]).sum() / len(deltas)


def encode(targets: Tensor, proposals: Tensor) -> Tensor:
    """Regression targets (n, 4) that take each proposal (n, 4) to its target (n, 4), weighted."""
    x, y, w, h = _centre_form(proposals)
    target_x, target_y, target_w, target_h = _centre_form(targets)
    deltas = [(target_x - x) / w, (target_y - y) / h, torch.log(target_w / w), torch.log(target_h / h)]
    return torch.stack(deltas, dim=1) * proposals.new_tensor(REGRESSION_WEIGHTS)


def decode(deltas: Tensor, proposals: Tensor) -> Tensor:
    """Boxes (n, 4 k) that deltas (n, 4 k) make of proposals (n, 4), k classes side by side."""
    x, y, w, h = (side[:, None, None] for side in _centre_form(proposals))
    per_class = deltas.unflatten(1, (deltas.shape[1] // 4, 4)) / deltas.new_tensor(REGRESSION_WEIGHTS)
    centre = torch.cat([per_class[..., :1] * w + x, per_class[..., 1:2] * h + y], dim=2)
    growth = per_class[..., 2:].clamp(max=LARGEST_LOG_RATIO).exp()
    half = 0.5 * torch.cat([growth[..., :1] * w, growth[..., 1:] * h], dim=2)
    return torch.cat([centre - half, centre + half], dim=2).reshape(deltas.shape)


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height, width, height
