"""Seeds of CASD's release, centres of a graph of the best proposals, and its losses (spec 10b §A.3, §A.5)."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam_cli.wsod.mining import BACKGROUND, PseudoBoxes, pairwise_iou

_CLUSTERS: Final = 3
_SEED: Final = 3
_HINGE_SCALE: Final = 20
"""Of the release, whatever the number of classes."""


@torch.no_grad()
def graph_pseudo_boxes(
    scores: Tensor, boxes: Tensor, image_labels: Tensor, *, overlap: float = 0.4, most: int = 5
) -> PseudoBoxes:
    """For each class, centres of the graph that its best proposals form by overlap.

    The best cluster of scores (k-means); then, again and again, the proposal with the most neighbours, which goes with them,
    until `most` or fewer are left, by which second objects are passed over where there are few proposals. Below three
    proposals or distinct scores the best one is the seed (interpretation: the published code fails).

    Args:
        scores: (R, C).
        boxes: (R, 4).
        image_labels: (C,).
        overlap: proposals are neighbours above this IoU.
        most: seeds of a class.
    """
    overlaps = pairwise_iou(boxes, boxes) > overlap
    free = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    rows: list[int] = []
    classes: list[int] = []
    found: list[float] = []
    for index in image_labels.nonzero().flatten().tolist():
        pool = free.nonzero().flatten()
        if not len(pool):
            break
        centres = _centres(scores[:, index], pool[_best_cluster(scores[pool, index])], overlaps, most)
        for value, centre in sorted(centres, key=lambda item: -item[0])[:most]:
            rows.append(centre)
            classes.append(index)
            found.append(value)
            free[centre] = False
    return PseudoBoxes(
        boxes[rows],
        torch.tensor(classes, dtype=torch.int64, device=boxes.device),
        scores.new_tensor(found),
    )


def _best_cluster(values: Tensor) -> Tensor:
    """Places, int64 (m,), of the cluster of highest values."""
    from sklearn.cluster import KMeans

    column = values.cpu().numpy()
    if len(np.unique(column)) < _CLUSTERS:
        return values.argmax()[None]
    fitted = KMeans(_CLUSTERS, random_state=_SEED).fit(column[:, None])
    best = fitted.labels_ == fitted.cluster_centers_[:, 0].argmax()
    return torch.from_numpy(np.flatnonzero(best)).to(values.device)


def _centres(column: Tensor, nodes: Tensor, overlaps: Tensor, left: int) -> list[tuple[float, int]]:
    """Score and proposal of each centre among `nodes`; of equal degrees the last is taken."""
    centres: list[tuple[float, int]] = []
    while len(nodes):
        adjacent = overlaps[nodes][:, nodes]
        degrees = adjacent.sum(dim=1)
        place = int((degrees == degrees.max()).nonzero()[-1])
        neighbours = adjacent[place]
        centres.append((float(column[nodes[neighbours]].max()), int(nodes[place])))
        nodes = nodes[~neighbours]
        if len(nodes) <= left:
            break
    return centres


@torch.no_grad()
def graph_labels(
    boxes: Tensor,
    pseudo: PseudoBoxes,
    *,
    foreground_iou: float = 0.6,
    background_iou: tuple[float, float] = (0.1, 0.4),
) -> tuple[Tensor, Tensor]:
    """Labels, int64 (R,), -1 for background, and which proposals may teach, bool (R,).

    Foreground is above the first IoU, background from the second to below the third; what is between is left out.
    """
    labels = torch.full((len(boxes),), BACKGROUND, dtype=torch.int64, device=boxes.device)
    if not len(pseudo) or not len(boxes):
        return labels, torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    best, nearest = pairwise_iou(boxes, pseudo.boxes).max(dim=1)
    foreground = best > foreground_iou
    least, most = background_iou
    labels[foreground] = pseudo.classes[nearest[foreground]]
    return labels, foreground | ((best >= least) & (best < most))


@torch.no_grad()
def drawn(labels: Tensor, candidates: Tensor, foreground: int, background: int) -> Tensor:
    """bool (R,): of the candidates at most so many of foreground and of background, at random."""
    keys = torch.rand(len(labels), device=labels.device)
    kept = torch.zeros_like(candidates)
    for members, most in ((labels != BACKGROUND, foreground), (labels == BACKGROUND, background)):
        rows = (members & candidates).nonzero().flatten()
        kept[rows[keys[rows].argsort()[:most]]] = True
    return kept


def hinge_loss(image_scores: Tensor, image_labels: Tensor) -> Tensor:
    """Hinge of image scores (V, C), logits weighed by the softmax over proposals: sum over C, over 20, mean of V views."""
    signs = 2 * image_labels.to(image_scores.dtype) - 1
    return (1 - signs * image_scores).clamp(min=0).sum() / _HINGE_SCALE / len(image_scores)


def taught_loss(logits: Tensor, labels: Tensor, kept: Tensor, views: int) -> Tensor:
    """Cross entropy over the proposals of each view that are kept; a mean of the views.

    Args:
        logits: (V * R, C + 1), background first.
        labels: int64 (V * R,), -1 for background.
        kept: bool (V * R,); a view without any counts 0.
        views: V.
    """
    losses = F.cross_entropy(logits, labels + 1, reduction="none") * kept
    if not len(losses):
        return logits.sum() * 0
    by_view = losses.unflatten(0, (views, -1)).sum(dim=1)
    return (by_view / kept.unflatten(0, (views, -1)).sum(dim=1).clamp(min=1)).mean()
