"""CBL's teacher: an average over time of backbone and neck, and of all classifiers in one; and its ranking (spec 10c §1).

It is a part of the detector's heads, so that checkpoint, model and test have it; it takes no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_cli.wsod.detector import RegionDetector, RegionHeads
from weaksam_cli.wsod.method import Rois
from weaksam_cli.wsod.mining import assign, top_one_pseudo_boxes


class Teacher(nn.Module):
    """A copy of what lies before the classifiers, and one classifier.

    Args:
        detector: whose copy it is; its classifiers read the same features.
        with_backbone: copy the backbone, too; otherwise the student's map is taken.
    """

    def __init__(self, detector: RegionDetector, *, with_backbone: bool) -> None:
        super().__init__()
        self.backbone: Any = deepcopy(detector.backbone) if with_backbone else None
        self.neck = deepcopy(detector.neck)
        self.hidden = deepcopy(detector.heads.necks[0])
        self.classifier = deepcopy(detector.heads.refinements[0])
        self.requires_grad_(False)

    @torch.no_grad()
    def logits(self, rois: Rois) -> Tensor:
        """float32 (all R, C + 1), background first."""
        self.eval()  # it never drops anything out
        seen = None if self.backbone is None else self.backbone(rois.images)
        logits: Tensor = self.classifier(self.hidden(self.neck(rois.pool(seen))))
        return logits.float()

    @torch.no_grad()
    def follow(self, detector: RegionDetector, rate: float) -> None:
        """Move by `rate`, the whole way at 1, towards the student after its step."""
        students: list[Any] = [detector.neck, detector.heads.necks[0]]
        own: list[Any] = [self.neck, self.hidden]
        if self.backbone is not None:
            students.append(detector.backbone)
            own.append(self.backbone)
        for teacher, student in zip(own, students, strict=True):
            blend(teacher.parameters(), student.parameters(), rate)
        blend(self.classifier.parameters(), mean_classifier(detector.heads), rate)


def mean_classifier(heads: RegionHeads) -> list[Tensor]:
    """Weight and bias: half of the last branch's, and half of the mean of those before it."""
    *others, last = heads.refinements
    return [
        0.5 * torch.stack([getattr(item, name) for item in others]).mean(dim=0) + 0.5 * getattr(last, name)
        for name in ("weight", "bias")
    ]


def blend(teacher: Any, student: Any, rate: float) -> None:
    """Move parameters, in place, by `rate` towards others."""
    for own, other in zip(teacher, student, strict=True):
        own.lerp_(other, rate)


def following_rate(iteration: int, momentum: float) -> float:
    """How far the teacher moves after a 0-based iteration: a plain mean at first, then an average over time."""
    return 1 - min(1 - 1 / (iteration + 1), momentum)


def ranking_loss(
    scores: Tensor, teacher: Tensor, boxes: Tensor, image_labels: Tensor, threshold: float
) -> Tensor:
    """Class-specific ranking distillation: near the teacher's best box of a class, the streams' scores learn its ranking.

    Args:
        scores: (R, C), of the two streams; they alone take gradient.
        teacher: (R, C), its probabilities.
        boxes: (R, 4).
        image_labels: (C,).
        threshold: IoU with the teacher's best box from which on a proposal is near it.

    Returns:
        Scalar: summed over the classes, the divergence of softmaxes over the n near proposals, divided by n, times the
        teacher's score of its best box.
    """
    best = top_one_pseudo_boxes(teacher, boxes, image_labels)
    labels = assign(boxes, best, foreground_iou=threshold).labels
    total = scores.sum() * 0
    for index, weight in zip(best.classes.tolist(), best.scores, strict=True):
        near = (labels == index) & (teacher[:, index] > 0)
        if near.any():
            wanted = teacher[near, index].log_softmax(dim=0)
            divergence = wanted.exp() * (wanted - scores[near, index].log_softmax(dim=0))
            total = total + weight * divergence.mean()
    return total


def test_scores(branches: Sequence[Tensor], teacher: Tensor) -> Tensor:
    """Probabilities (R, C + 1): half of the mean of the branches', and half of the teacher's."""
    return 0.5 * torch.stack(list(branches)).mean(dim=0) + 0.5 * teacher
