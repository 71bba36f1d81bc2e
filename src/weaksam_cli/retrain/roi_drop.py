"""Which regions teach: the top-3 matcher, and RoI drop.

RoI drop: regions whose training losses are suspiciously large do not teach (paper, supplement sections 3
and 7).

Pseudo ground truth holds wrong boxes, and the regions matched to them keep a large loss. From a start iteration on,
such regions are dropped: their losses count as zero.

The published code meant to do this but cannot run with the drop switched on: it concatenates a tensor with the tuple of
`torch.where`, and, that repaired, uses RoI numbers as positions in the list of foreground RoIs, which zeroes a wrong
entry or fails as soon as a batch holds more than one image. Here both lists are kept apart. Which rule gave the
published figures cannot be told from the release, so three are offered (`settings.RoiDrop`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam_cli.retrain.settings import Semantics


class Dropped(NamedTuple):
    """Which losses do not count.

    Attributes:
        classification: bool (R,), over all sampled RoIs.
        regression: bool (F,), over the foreground RoIs, in the order of `foreground`.
    """

    classification: Tensor
    regression: Tensor


def foreground_indices(classes: Tensor, num_classes: int) -> Tensor:
    """Positions int64 (F,) of the RoIs that are matched to an object, in increasing order."""
    return torch.nonzero((classes >= 0) & (classes < num_classes)).flatten()


def regression_distances(deltas: Tensor, targets: Tensor, beta: float = 0.0) -> Tensor:
    """Smooth L1 distance (F,) between deltas (F, 4), summed over the coordinates; `beta` 0 is plain L1."""
    if beta <= 0:
        return (deltas - targets).abs().sum(dim=1)
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="none").sum(dim=1)


def find_dropped(
    cross_entropy: Tensor,
    distances: Tensor,
    foreground: Tensor,
    *,
    tau_cls: float,
    tau_reg: float,
    semantics: Semantics,
) -> Dropped:
    """Which of R RoIs are dropped from which loss.

    Args:
        cross_entropy: float (R,), classification loss of every RoI.
        distances: float (F,), regression loss of the foreground RoIs.
        foreground: int64 (F,), positions of the foreground RoIs among the R.
        tau_cls: a classification loss above it is large.
        tau_reg: a regression loss above it is large.
        semantics: see `weaksam_cli.retrain.settings.RoiDrop`.
    """
    large_cls = cross_entropy > tau_cls
    large_reg = distances > tau_reg
    if semantics == "separate":
        return Dropped(large_cls, large_reg)
    combine = torch.logical_and if semantics == "intersection" else torch.logical_or
    regression = combine(large_cls[foreground], large_reg)
    classification = torch.zeros_like(large_cls)
    classification[foreground] = regression
    return Dropped(classification, regression)


def nothing_dropped(cross_entropy: Tensor, distances: Tensor) -> Dropped:
    """Every loss counts."""
    return Dropped(
        torch.zeros_like(cross_entropy, dtype=torch.bool), torch.zeros_like(distances, dtype=torch.bool)
    )


def reduce_losses(
    cross_entropy: Tensor, distances: Tensor, dropped: Dropped, *, divide_regression: bool
) -> tuple[Tensor, Tensor]:
    """Classification and regression loss, scalars.

    Both are sums over the RoIs that count, divided by the number R of **all** RoIs; without `divide_regression` the
    second stays a sum.
    """
    count = max(len(cross_entropy), 1)
    classification = torch.where(dropped.classification, 0.0, cross_entropy).sum() / count
    regression = torch.where(dropped.regression, 0.0, distances).sum()
    return classification, regression / count if divide_regression else regression


class TopKMatcher:
    """Which proposals are foreground: the k best of each ground truth, as far as their best IoU reaches the threshold.

    The published detector quietly replaced detectron2's matcher: of each ground-truth box only the three proposals of
    highest IoU are foreground, and every other proposal is background, also one of IoU 0.9. The paper does not mention it.
    With fewer than three proposals the published code fails; here it takes those there are.

    Args:
        threshold: a proposal whose best IoU is below is background.
        k: proposals for each ground-truth box.
    """

    def __init__(self, threshold: float = 0.5, k: int = 3) -> None:
        self.threshold = threshold
        self.k = k

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
        labels[order[:, : self.k].flatten()] = 1
        labels[best < self.threshold] = 0
        return matches, labels
