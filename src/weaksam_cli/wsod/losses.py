"""Losses of weakly supervised detectors, each about one image with R proposals and C classes (spec 04 §A.2, §B.2).

An image without proposals, or without pseudo boxes, has loss 0 and gradient 0 where the published code fails.
Labels are classes from 0, -1 for background; heads of C + 1 outputs have background first.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam_cli.wsod.box_geometry import encode
from weaksam_cli.wsod.mining import Assignment

MIST_CLAMP: Final = 1e-8
"""Image scores of MIST stay this far from 0 and 1."""

OICR_EPSILON: Final = 1e-6
"""Added to the probability inside OICR's logarithm."""


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
    _expect_labels(image_labels, scores.shape[1])
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
    _expect_labels(image_labels, scores.shape[1] - 1)
    if not len(scores):
        return scores.sum()
    image = scores.sum(dim=0).clamp(MIST_CLAMP, 1 - MIST_CLAMP)
    target = F.pad(image_labels.to(image.dtype), (1, 0))
    return F.binary_cross_entropy(image, target, reduction="mean")


def refinement_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, epsilon: float = 0.0
) -> Tensor:
    """Weighted cross entropy of one refinement head, averaged over all R proposals.

    Args:
        logits: (R, C + 1), background first.
        labels: int64 (R,), -1 for background.
        weights: (R,), or None for 1 everywhere.
        epsilon: added to the probability inside the logarithm: `OICR_EPSILON` for the published OICR, 0 for MIST.
    """
    if not len(logits):
        return logits.sum()
    if epsilon > 0:
        chosen = logits.softmax(dim=1).gather(1, labels[:, None] + 1)[:, 0]
        losses = -torch.log(chosen + epsilon)
    else:
        losses = F.cross_entropy(logits, labels + 1, reduction="none")
    return losses.mean() if weights is None else (losses * weights).mean()


def box_regression_loss(
    deltas: Tensor, boxes: Tensor, assignment: Assignment, *, plus_one: bool = False
) -> Tensor:
    """Smooth L1 (beta 1) of the foreground proposals' deltas of their own class, weighted, divided by all R proposals.

    Args:
        deltas: (R, 4 (C + 1)), class-specific, background first.
        boxes: (R, 4), the proposals.
        assignment: labels, weights and pseudo boxes of the proposals.
        plus_one: boxes are inclusive pixel indexes; see `box_geometry`.
    """
    foreground = torch.nonzero(assignment.labels >= 0).flatten()
    if not len(foreground):
        return deltas.sum() * 0
    per_class = deltas.unflatten(1, (deltas.shape[1] // 4, 4))
    predicted = per_class[foreground, assignment.labels[foreground] + 1]
    targets = encode(assignment.matched[foreground], boxes[foreground], plus_one=plus_one)
    distances = F.smooth_l1_loss(predicted, targets.to(predicted.dtype), beta=1.0, reduction="none").sum(
        dim=1
    )
    return (distances * assignment.weights[foreground]).sum() / len(deltas)


def _expect_labels(image_labels: Tensor, classes: int) -> None:
    if image_labels.shape != (classes,):
        raise ValueError(f"image_labels: expected shape ({classes},), got {tuple(image_labels.shape)}")
