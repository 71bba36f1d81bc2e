"""CASD's attention of RoIs: what views and layers teach each other, and cells that it hides (spec 10b §A.3, §A.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

Form = Literal["paper", "release"]

_MARGIN: Final = 0.02
"""A hidden RoI counts when its probability falls by more than this."""
_EPSILON: Final = 1e-7


def attention_maps(features: Tensor, form: Form) -> Tensor:
    """Attention (n, h, w) of RoIs (n, channels, h, w), 0 to 1.

    Args:
        features: pooled.
        form: `paper` is the sigmoid of the mean over the channels; `release` stretches each RoI's means from 0 to 1 before,
            by which attention lies between 0.5 and 0.731, and a constant RoI has 0.5.
    """
    means = features.float().mean(dim=1)
    if form == "release" and len(means):
        least, most = means.amin(dim=(1, 2), keepdim=True), means.amax(dim=(1, 2), keepdim=True)
        means = (means - least) / (most - least + _EPSILON)
    return means.sigmoid()


def distillation(attentions: Sequence[Tensor]) -> Tensor:
    """Sum, over several attentions (n, h, w) of the same RoIs, of the mean squared distance to the largest of them.

    The largest takes no gradient. With no RoI it is 0.
    """
    stacked = torch.stack(list(attentions))
    if not stacked.numel():
        return stacked.sum()
    wanted = stacked.detach().amax(dim=0)
    return (stacked - wanted).square().flatten(1).mean(dim=1).sum()


def unmirrored(attentions: Tensor, mirrored: Sequence[bool]) -> list[Tensor]:
    """Attention (V * n, h, w) of V views as V of (n, h, w), the mirrored ones turned back."""
    views = attentions.chunk(len(mirrored)) if len(attentions) else [attentions] * len(mirrored)
    return [view.flip(2) if flipped else view for view, flipped in zip(views, mirrored, strict=True)]


@dataclass(frozen=True)
class Hiding:
    """How many cells and RoIs inverted attention hides.

    Attributes:
        candidates: so many cells of highest attention may be hidden.
        cells: so many of them are, at random.
        foreground, background: one RoI in so many is hidden, those that it hurts most.
    """

    candidates: int
    cells: int
    foreground: int
    background: int


def gradient_attention(features: Tensor, logits: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """(n, h, w): channels weighed by the mean gradient of each RoI's own logit; of either sign.

    Args:
        features: (n, channels, h, w); no gradient reaches what they were made of, nor any weight.
        logits: from features to (n, C + 1), background first.
        labels: int64 (n,), columns of the logits.
    """
    with torch.enable_grad():
        leaf = features.detach().requires_grad_()
        chosen = logits(leaf).gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, leaf)
    return (features.detach() * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)


@torch.no_grad()
def inverted_attention(
    features: Tensor,
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    kept: Tensor,
    hiding: Hiding,
    draws: Tensor,
) -> Tensor:
    """Masks (n, 1, h, w), 0 where a cell is hidden, else 1: the RoIs whose recognition hangs most on a few cells lose them.

    Args:
        features: (n, channels, h, w).
        logits: see `gradient_attention`; without dropout.
        labels: int64 (n,), 0 for background.
        kept: bool (n,), RoIs that teach.
        hiding: how many.
        draws: (n, h * w) in [0, 1), random: of the candidates the cells with the highest are hidden.
    """
    masks = features.new_ones(len(features), 1, *features.shape[2:])
    if not bool((kept & (labels > 0)).any()):
        return masks
    attention = gradient_attention(features, logits, labels).flatten(1)
    limit = attention.sort(dim=1, descending=True).values[:, hiding.candidates]
    candidates = attention > limit[:, None]
    # Where there are too few candidates, any cell may go.
    enough = candidates.sum(dim=1, keepdim=True) >= hiding.cells
    chosen = (draws + (candidates & enough)).topk(hiding.cells, dim=1).indices
    hidden = torch.ones_like(attention).scatter(1, chosen, 0.0).view(masks.shape)
    own = labels[:, None]
    before, after = logits(features).softmax(dim=1), logits(features * hidden).softmax(dim=1)
    loss = (before.gather(1, own) - after.gather(1, own) - _MARGIN).clamp(min=0)[:, 0]
    hurt = torch.zeros_like(kept)
    for members, one_in in ((labels > 0, hiding.foreground), (labels == 0, hiding.background)):
        rows = (members & kept).nonzero().flatten()
        if len(rows):
            ranked = loss[rows].sort(descending=True).values
            hurt[rows] = loss[rows] > ranked[min(round(len(rows) / one_in), len(rows) - 1)]
    return torch.where(hurt[:, None, None, None], hidden, masks)
