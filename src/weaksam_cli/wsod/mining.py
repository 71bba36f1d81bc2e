"""Mining of pseudo boxes from proposal scores, and the labels that proposals get from them (spec 04 §A.3, §B.2).

Everything is about one image with R proposals and C classes. Scores are (R, C) without a background column; classes are
indexes 0 to C - 1 and -1 is background, so `labels + 1` indexes a head whose first output is background. Boxes are xyxy
pixel edges, which gives the numbers of published codes that count inclusive pixel indexes with +1. All functions run
without gradient, on the device of their inputs, and answer every R including 0 and images without any class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

BACKGROUND: Final = -1

_FEW_PROPOSALS: Final = 10
"""Below this many proposals MIST takes one seed a class (spec 04 §A.3)."""


@dataclass(frozen=True)
class PseudoBoxes:
    """Boxes taken as ground truth of one image.

    Attributes:
        boxes: (m, 4), xyxy, copies of proposals.
        classes: int64 (m,), 0 to C - 1.
        scores: (m,), score of the proposal for that class.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Assignment:
    """What each of R proposals learns.

    Attributes:
        labels: int64 (R,), class or -1 for background.
        weights: (R,), score of the nearest pseudo box, also for background; 0 when the image has no pseudo box.
        matched: (R, 4), the nearest pseudo box; the proposal itself when the image has none.
    """

    labels: Tensor
    weights: Tensor
    matched: Tensor


@torch.no_grad()
def top_one_pseudo_boxes(scores: Tensor, boxes: Tensor, image_labels: Tensor) -> PseudoBoxes:
    """The best proposal of each class of the image, as the original OICR does; the best of one class is no later class's.

    Args:
        scores: (R, C).
        boxes: (R, 4), xyxy.
        image_labels: (C,), true or 1 for the classes of the image.
    """
    remaining = scores.clone()
    chosen: list[PseudoBoxes] = []
    for index in _classes(scores, image_labels):
        best = remaining[:, index].argmax()
        chosen.append(_seeds(best[None], index, remaining[:, index], boxes))
        remaining[best] = 0
    return _pool(chosen, scores, boxes)


@torch.no_grad()
def max_ratio_pseudo_boxes(
    scores: Tensor,
    boxes: Tensor,
    image_labels: Tensor,
    *,
    ratio: float = 0.9,
    nms_threshold: float = 0.5,
    class_wise: bool = False,
) -> PseudoBoxes:
    """Proposals that score at least `ratio` of their class's maximum, thinned by NMS, by decreasing score.

    Args:
        scores: (R, C).
        boxes: (R, 4), xyxy.
        image_labels: (C,), true or 1 for the classes of the image.
        ratio: share of the class's best score.
        nms_threshold: a box whose IoU with a better one is strictly above gives way.
        class_wise: suppress within a class only. The published code suppresses over all classes together, by which a
            class may lose its only pseudo box to another class on the same region.
    """
    chosen: list[PseudoBoxes] = []
    for index in _classes(scores, image_labels):
        column = scores[:, index]
        near_best = torch.nonzero(column >= ratio * column.max()).flatten()
        seeds = _seeds(near_best, index, column, boxes)
        chosen.append(_suppress(seeds, nms_threshold) if class_wise else seeds)
    pooled = _pool(chosen, scores, boxes)
    if class_wise:
        return _take(pooled, pooled.scores.argsort(descending=True, stable=True))
    return _suppress(pooled, nms_threshold)


@torch.no_grad()
def mist_pseudo_boxes(
    scores: Tensor, boxes: Tensor, image_labels: Tensor, *, share: float = 0.15, iou_threshold: float = 0.2
) -> PseudoBoxes:
    """MIST: among the top share of proposals of each class, those that overlap no better one; class by class, then rank.

    A proposal that gives way still suppresses those ranked below it, unlike in greedy NMS.

    Args:
        scores: (R, C).
        boxes: (R, 4), xyxy.
        image_labels: (C,), true or 1 for the classes of the image.
        share: the top int(R * share) proposals are candidates, at least one; exactly one below 10 proposals.
        iou_threshold: keep a proposal whose IoU with every better candidate is strictly below.
    """
    count = max(1, int(len(scores) * share)) if len(scores) >= _FEW_PROPOSALS else 1
    chosen: list[PseudoBoxes] = []
    for index in _classes(scores, image_labels):
        column = scores[:, index]
        ranked = column.argsort(descending=True, stable=True)[:count]
        overlaps = pairwise_iou(boxes[ranked], boxes[ranked])
        with_better = overlaps.triu(diagonal=1).amax(dim=0)
        kept = with_better < iou_threshold
        kept[0] = True
        chosen.append(_seeds(ranked[kept], index, column, boxes))
    return _pool(chosen, scores, boxes)


@torch.no_grad()
def multi_seed_pseudo_boxes(
    scores: Tensor,
    others: Sequence[Tensor],
    boxes: Tensor,
    image_labels: Tensor,
    *,
    share: float = 0.05,
    ratio: float = 0.7,
    iou_threshold: float = 0.4,
    agreement_iou: float = 0.5,
    power: float = 0.4,
    few: Literal["one", "all"] = "one",
) -> PseudoBoxes:
    """CBL: the best proposals of each class, thinned; each weighs more where other branches agree (spec 10c §1.4).

    A box's score times 1 + (n / N)**power, n of the N branches having a candidate there; it may exceed 1.

    Args:
        scores: (R, C).
        others: (R, C) of each further branch.
        boxes: (R, 4), xyxy.
        image_labels: (C,), true or 1 for the classes of the image.
        share: the top int(R * share) proposals of each branch are candidates.
        ratio: of these, those above this share of the branch's best.
        iou_threshold: a candidate gives way from this IoU with a better one on.
        agreement_iou: another branch agrees above this IoU of one of its candidates.
        power: of the agreement.
        few: where int(R * share) is 0, `one` takes the best, `all` takes all as the published code does by accident.
    """
    count = int(len(scores) * share)
    chosen: list[PseudoBoxes] = []

    def candidates(column: Tensor) -> Tensor:
        near_best = int((column > ratio * column.max()).sum())
        most = min(count, near_best) or (1 if few == "one" else len(column))
        return column.argsort(descending=True, stable=True)[:most]

    for index in _classes(scores, image_labels):
        column = scores[:, index]
        ranked = candidates(column)
        # torchvision's lets a box stay at the very threshold.
        kept = ranked[nms(boxes[ranked].float(), column[ranked].float(), math.nextafter(iou_threshold, 0))]
        agreeing = torch.ones(len(kept), device=boxes.device)
        for other in others:
            overlaps = pairwise_iou(boxes[kept], boxes[candidates(other[:, index])])
            agreeing += (overlaps > agreement_iou).any(dim=1)
        weighed = _seeds(kept, index, column, boxes)
        factor = 1 + (agreeing / (1 + len(others))) ** power
        chosen.append(PseudoBoxes(weighed.boxes, weighed.classes, weighed.scores * factor))
    return _pool(chosen, scores, boxes)


@torch.no_grad()
def assign(
    boxes: Tensor,
    pseudo: PseudoBoxes,
    *,
    foreground_iou: float = 0.5,
    above: bool = False,
    ignore_iou: float = 0.0,
) -> Assignment:
    """Give each proposal the class and score of the pseudo box that it overlaps most; the first of equals wins.

    Args:
        boxes: (R, 4), xyxy.
        pseudo: pseudo boxes of the image; none makes every proposal background of weight 0.
        foreground_iou: a proposal is foreground from this IoU on.
        above: the IoU must be strictly above, as in the original OICR.
        ignore_iou: a proposal whose IoU is below weighs 0, as there.
    """
    if not len(pseudo) or not len(boxes):
        labels = torch.full((len(boxes),), BACKGROUND, dtype=torch.int64, device=boxes.device)
        return Assignment(labels, pseudo.scores.new_zeros(len(boxes)), boxes.clone())
    overlaps = pairwise_iou(boxes, pseudo.boxes)
    nearest = overlaps.argmax(dim=1)
    best = overlaps.gather(1, nearest[:, None])[:, 0]
    foreground = best > foreground_iou if above else best >= foreground_iou
    labels = pseudo.classes[nearest].masked_fill(~foreground, BACKGROUND)
    weights = pseudo.scores[nearest].masked_fill(best < ignore_iou, 0)
    return Assignment(labels, weights, pseudo.boxes[nearest])


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


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of `a` (n, 4) with every box of `b` (m, 4): (n, m); 0 where both are empty."""
    overlaps: Tensor = box_iou(a, b)
    return overlaps.nan_to_num()


def without_last_pixel(boxes: Tensor) -> Tensor:
    """Pixel edges (n, 4) as inclusive pixel indexes, which codes without +1 take for the box itself."""
    return boxes - boxes.new_tensor((0, 0, 1, 1))


def _classes(scores: Tensor, image_labels: Tensor) -> list[int]:
    """Classes of the image in index order; none when there is no proposal to carry them."""
    return image_labels.nonzero().flatten().tolist() if len(scores) else []


def _seeds(index: Tensor, class_index: int, column: Tensor, boxes: Tensor) -> PseudoBoxes:
    """The proposals at `index` as pseudo boxes of one class, scored by its `column` of the scores."""
    return PseudoBoxes(boxes[index], torch.full_like(index, class_index), column[index])


def _take(pseudo: PseudoBoxes, order: Tensor) -> PseudoBoxes:
    return PseudoBoxes(pseudo.boxes[order], pseudo.classes[order], pseudo.scores[order])


def _suppress(pseudo: PseudoBoxes, threshold: float) -> PseudoBoxes:
    """NMS over all classes together, by decreasing score; torchvision's needs one floating type."""
    return _take(pseudo, nms(pseudo.boxes.float(), pseudo.scores.float(), threshold))


def _pool(chosen: list[PseudoBoxes], scores: Tensor, boxes: Tensor) -> PseudoBoxes:
    none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    parts = [PseudoBoxes(boxes[:0], none, scores.new_zeros(0)), *chosen]
    return PseudoBoxes(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.classes for part in parts]),
        torch.cat([part.scores for part in parts]),
    )
