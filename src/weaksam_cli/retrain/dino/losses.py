"""DINO's losses: Hungarian matching, focal + L1 + GIoU of every layer, and which queries do not teach (spec 06 B.1, B.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

from weaksam_cli.retrain.dino.query_drop import dropped_of_batch, gathered
from weaksam_cli.retrain.dino.settings import LossWeights, QueryDrop

Match = tuple[Tensor, Tensor]
"""Queries of an image and the objects that they are matched with, int64 (m,) both."""


@dataclass(frozen=True)
class Targets:
    """Objects of one image.

    Attributes:
        boxes: float (k, 4), centre, width and height as shares of the image.
        classes: int64 (k,).
    """

    boxes: Tensor
    classes: Tensor


def matched(logits: Tensor, boxes: Tensor, targets: Sequence[Targets], costs: LossWeights) -> list[Match]:
    """The cheapest one-to-one matching of queries and objects, image by image.

    Args:
        logits: float (n, Q, C).
        boxes: float (n, Q, 4).
        targets: of the n images.
        costs: weights of the costs.

    Raises:
        FloatingPointError: boxes or logits are NaN.
    """
    if not bool(torch.isfinite(boxes).all() & torch.isfinite(logits).all()):
        raise FloatingPointError("boxes or logits are NaN or infinite")
    if not any(len(item.classes) for item in targets):
        nothing = torch.zeros(0, dtype=torch.int64)
        return [(nothing, nothing) for _ in targets]
    matcher = DeformableDetrHungarianMatcher(
        class_cost=costs.classes, bbox_cost=costs.l1, giou_cost=costs.giou
    )
    said = {"logits": logits.detach().float(), "pred_boxes": boxes.detach().float()}
    objects = [{"class_labels": item.classes, "boxes": item.boxes} for item in targets]
    found: list[Match] = matcher(said, objects)
    return found


@dataclass(frozen=True)
class Wanted:
    """What the queries of a layer are to become.

    Attributes:
        classes: int64 (n * Q,); the number of classes is background.
        rows: int64 (m,), the matched ones among the n * Q.
        boxes: float (m, 4), what these are to be.
    """

    classes: Tensor
    rows: Tensor
    boxes: Tensor


def wanted_of(matches: Sequence[Match], targets: Sequence[Targets], queries: int, class_count: int) -> Wanted:
    """What the matches of n images of `queries` queries each ask for."""
    device = targets[0].boxes.device
    pairs = [(queries_.to(device), objects.to(device)) for queries_, objects in matches]
    rows = torch.cat([index * queries + found for index, (found, _) in enumerate(pairs)])
    boxes = torch.cat([item.boxes[objects] for item, (_, objects) in zip(targets, pairs, strict=True)])
    classes = torch.full((len(matches) * queries,), class_count, device=device)
    classes[rows] = torch.cat(
        [item.classes[objects] for item, (_, objects) in zip(targets, pairs, strict=True)]
    )
    return Wanted(classes, rows, boxes)


def box_distances(boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 less the generalised IoU, float (m,) both, of boxes (m, 4) and what they are to be."""
    corners = box_convert(boxes, "cxcywh", "xyxy"), box_convert(wanted, "cxcywh", "xyxy")
    return (boxes - wanted).abs().sum(dim=1), generalized_box_iou_loss(*corners)


def layer_losses(
    logits: Tensor, boxes: Tensor, wanted: Wanted, weights: LossWeights, dropped: Tensor | None = None
) -> dict[str, Tensor]:
    """`cls`, `l1` and `giou` of a layer, weighted sums over its queries divided by the number of matched ones (at least 1).

    Args:
        logits: float (N, C) of all queries of the batch.
        boxes: float (N, 4).
        wanted: what they are to become.
        weights: of the losses.
        dropped: bool (N,), queries that count nothing in all three; what the sums are divided by does not change.
    """
    logits, boxes = logits.float(), boxes.float()
    kept = torch.ones_like(wanted.classes) if dropped is None else ~dropped
    truth = F.one_hot(wanted.classes, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    focal = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2.0).sum(dim=1)
    found, weight = boxes[wanted.rows], kept[wanted.rows]
    l1, giou = box_distances(found, wanted.boxes)
    count = max(len(wanted.rows), 1)
    return {
        "cls": (focal * kept).sum() * (weights.classes / count),
        "l1": (l1 * weight).sum() * (weights.l1 / count),
        "giou": (giou * weight).sum() * (weights.giou / count),
    }


def dropped_by(logits: Tensor, wanted: Wanted, drop: QueryDrop) -> Tensor:
    """Which of all queries (N, C) of a layer are dropped: bool (N,)."""
    gather = gathered if drop.gather else None
    return dropped_of_batch(logits.float(), wanted.classes, drop.mode, drop.tau, gather)
