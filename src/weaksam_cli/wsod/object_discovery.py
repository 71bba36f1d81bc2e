"""OD-WSCL's discovery of objects, RoIs as similar to a class's best as the class is on average, and its loss (spec 10b §B).

Scores are (R, C) without background; embeddings are unit vectors. An image has C classes, of which some are present. Every
function answers every R including 0, and images without any class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from weaksam_cli.wsod.drop_block import block_mask, masked
from weaksam_cli.wsod.mining import PseudoBoxes, pairwise_iou, without_last_pixel

CrossClass = Literal["and", "release"]
Difficulty = Literal["aligned", "release"]

_SMALLEST_RATIO: Final = 1e-12
"""Inside the loss's logarithm: the published code has infinity for a class of one sample."""
_SMALLEST_SUM: Final = 1e-8


@dataclass(frozen=True)
class Embedded:
    """One image's proposals for discovery.

    Attributes:
        boxes: (R, 4), xyxy pixel edges.
        classes: indexes of the image's classes, ascending.
        sources: scores (R, C) that each branch is mined from; the first are those of the two streams.
        clean: (R, d), embeddings.
        copies: further embeddings (R, d) of the same proposals, hidden or noisy; rows of proposals that are near no class's
            best are not looked at.
    """

    boxes: Tensor
    classes: list[int]
    sources: Sequence[Tensor]
    clean: Tensor
    copies: Sequence[Tensor]

    def near(self, index: int, iou: float) -> Tensor:
        """bool (R,): proposals that overlap some branch's best of a class by at least `iou`."""
        best = torch.stack([source[:, index].argmax() for source in self.sources])
        return (pairwise_iou(self.boxes, self.boxes[best]) >= iou).any(dim=1)


@dataclass(frozen=True)
class Discovery:
    """What the images that are in memory together find in each other.

    Attributes:
        found: of each image, of each branch: class -> proposals int64 (m,), the best first; m is at least 1.
        loss: scalar, the contrastive loss.
    """

    found: list[list[dict[int, Tensor]]]
    loss: Tensor


def discover(
    images: Sequence[Embedded],
    *,
    near_iou: float,
    nms_iou: float,
    cross_class: CrossClass,
    difficulty: Difficulty,
    temperature: float,
) -> Discovery:
    """Proposals that are as similar to a class's best as the class is on average, and the loss over all that were gathered.

    Args:
        images: that learn from each other.
        near_iou: proposals from this IoU with a best one on are samples of its class.
        nms_iou: of what was found, a box whose IoU (without the last pixel) with a better one is strictly above gives way.
        cross_class: see `similar`.
        difficulty: `aligned` weighs each sample by its own share of the class's score in its image. `release` is the
            published code's: weights in the order in which images gather them, samples class by class.
        temperature: of the loss.
    """
    samples = _Samples()
    near = [
        {index: item.near(index, near_iou) for index in item.classes if len(item.boxes)} for item in images
    ]
    for item, masks in zip(images, near, strict=True):
        for index, mask in masks.items():
            for embeddings in (item.clean, *item.copies):
                samples.add(index, embeddings[mask], _shares(item, index)[mask])
    memory = samples.centres()
    found = []
    for item, masks in zip(images, near, strict=True):
        branches: list[dict[int, Tensor]] = []
        for source in item.sources:
            best = {index: int(source[:, index].argmax()) for index in masks}
            branches.append({})
            for index, mask in masks.items():
                candidates = similar(item.clean.detach(), memory[index], best, index, cross_class)
                candidates[best[index]] = True
                kept = thinned(candidates, source[:, index], item.boxes, nms_iou)
                branches[-1][index] = kept
                new = torch.zeros_like(mask)
                new[kept] = ~mask[kept]
                if not new.any():
                    new[best[index]] = True
                samples.add(index, item.clean[new], _shares(item, index)[new])
                masks[index] = mask | new
        found.append(branches)
    return Discovery(found, samples.loss(difficulty, temperature, like=images[0].clean))


def similar(
    embeddings: Tensor, centre: Tensor, best: dict[int, int], index: int, cross_class: CrossClass
) -> Tensor:
    """bool (R,): proposals as similar to the best of a class as the class's samples are on average.

    Args:
        embeddings: (R, d).
        centre: (d,), mean of the class's samples; a mean of similarities is a similarity to the mean.
        best: of each class of the image.
        index: the class.
        cross_class: `and` asks for at least the similarity to the best of every other class, too (interpretation: what the
            published code means). `release` compares, one class after the other, a truth value with that similarity, by
            which nothing that passed goes and what failed passes where the similarity is not positive.
    """
    own = embeddings @ embeddings[best[index]]
    others = [embeddings @ embeddings[other] for name, other in best.items() if name != index]
    return passes(own, embeddings[best[index]] @ centre, others, cross_class)


def passes(own: Tensor, threshold: Tensor, others: Sequence[Tensor], cross_class: CrossClass) -> Tensor:
    """bool (R,) from similarities (R,) to the best of the own class and of each other; see `similar`."""
    found = own >= threshold
    for other in others:
        found = found & (own >= other) if cross_class == "and" else found.to(other.dtype) >= other
    return found


def thinned(candidates: Tensor, scores: Tensor, boxes: Tensor, iou: float) -> Tensor:
    """Indexes, int64 (m,), by decreasing score, of those candidates (bool (R,)) that overlap no better one too much."""
    rows = candidates.nonzero().flatten()
    kept: Tensor = nms(without_last_pixel(boxes[rows]).float(), scores[rows].float(), iou)
    return rows[kept]


@torch.no_grad()
def discovered_pseudo_boxes(found: dict[int, Tensor], scores: Tensor, boxes: Tensor) -> PseudoBoxes:
    """Pseudo boxes of one branch, class by class; the best box of one class weighs nothing as a later class's.

    Args:
        found: class, ascending -> proposals (m,); without any, the best one stands in.
        scores: (R, C), that the branch is mined from.
        boxes: (R, 4).
    """
    remaining = scores.clone()
    rows, classes, weights = [], [], []
    for index, own in found.items():
        best = remaining[:, index].argmax()
        chosen = own if len(own) else best[None]
        rows.append(chosen)
        classes.append(torch.full_like(chosen, index))
        weights.append(remaining[chosen, index])
        remaining[best] = 0
    if not rows:
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return PseudoBoxes(boxes[:0], none, scores.new_zeros(0))
    return PseudoBoxes(boxes[torch.cat(rows)], torch.cat(classes), torch.cat(weights))


def contrastive_loss(embeddings: Tensor, classes: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Weighted mean over N samples of how far those of the own class stand out against all others (spec 10b §B.5).

    Args:
        embeddings: (N, d).
        classes: int64 (N,).
        weights: (N,), without gradient.
        temperature: of the similarities.
    """
    if not len(embeddings):
        return embeddings.sum()
    logits = embeddings @ embeddings.T / temperature
    alone = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    everyone = logits.masked_fill(alone, -torch.inf)
    of_class = everyone.masked_fill(classes[:, None] != classes[None], -torch.inf)
    # Where there is nothing to sum, the ratio is the smallest one, without gradient.
    known = (of_class > -torch.inf).any(dim=1)
    floor = math.log(_SMALLEST_RATIO)
    ratios = embeddings.new_full((len(embeddings),), floor)
    ratios[known] = of_class[known].logsumexp(dim=1) - everyone[known].logsumexp(dim=1)
    return -(ratios.clamp(min=floor) * weights).mean()


def hide_blocks(pooled: Tensor, probability: float, block: int) -> Tensor:
    """DropBlock: features (R, channels, h, w) without random blocks of `block` cells a side, scaled up for what is left.

    Args:
        pooled: features.
        probability: of a cell to be hidden, roughly: a cell is a block's centre with probability / block**2.
        block: odd.
    """
    centres = torch.rand(len(pooled), *pooled.shape[2:], device=pooled.device) < probability / block**2
    return masked(pooled, block_mask(centres.float(), block)) if len(pooled) else pooled


def _shares(image: Embedded, index: int) -> Tensor:
    """(R,), each proposal's share of a class's score in the image: how easy a sample of the class it is."""
    column = image.sources[0][:, index]
    return column / column.sum().clamp(min=_SMALLEST_SUM)


class _Samples:
    """Samples of the loss in the order in which they were gathered."""

    def __init__(self) -> None:
        self._classes: list[int] = []
        self._embeddings: list[Tensor] = []
        self._weights: list[Tensor] = []

    def add(self, index: int, embeddings: Tensor, weights: Tensor) -> None:
        """Of one class: (n, d) and (n,)."""
        self._classes.append(index)
        self._embeddings.append(embeddings)
        self._weights.append(weights.detach())

    def centres(self) -> dict[int, Tensor]:
        """Class -> mean (d,) of its samples, without gradient."""
        pairs = list(zip(self._classes, self._embeddings, strict=True))
        return {
            index: torch.cat([item for own, item in pairs if own == index]).detach().mean(dim=0)
            for index in set(self._classes)
        }

    def loss(self, difficulty: Difficulty, temperature: float, like: Tensor) -> Tensor:
        """See `contrastive_loss`; 0 with no sample, connected to `like`."""
        if not self._classes:
            return like.sum() * 0
        order = sorted(range(len(self._classes)), key=self._classes.__getitem__)
        embeddings = torch.cat([self._embeddings[place] for place in order])
        counts = torch.tensor([len(self._embeddings[place]) for place in order])
        classes = torch.tensor(sorted(self._classes)).repeat_interleave(counts).to(embeddings.device)
        places = order if difficulty == "aligned" else range(len(order))
        weights = torch.cat([self._weights[place] for place in places])
        return contrastive_loss(embeddings, classes, weights, temperature)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Of length 1 (float32), or 0 where there is no direction."""
    return F.normalize(vectors.float(), dim=1)
