"""WSOVOD's proposal network, which learns from the boxes that its detector finds (spec 10c §2.5).

As the released configurations have it: anchors of many sizes at each cell of the map, their objectness and their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from weaksam_cli.models.vgg16 import STRIDE
from weaksam_cli.wsod.losses import REGRESSION_WEIGHTS, decode, encode
from weaksam_cli.wsod.mining import pairwise_iou

if TYPE_CHECKING:
    from weaksam_cli.wsod.wsovod import NetworkSettings

_DEVIATION: Final = 0.01
_IGNORED: Final = -1


@dataclass(frozen=True)
class Anchored:
    """What the network says of the A anchors of an image, or of each of B.

    Attributes:
        anchors: (A, 4), xyxy pixels of the view, or (B, A, 4).
        logits: (A,) or (B, A), objectness.
        deltas: (A, 4) or (B, A, 4), from an anchor to its box; x and y count in its sides, sides are logarithms.
    """

    anchors: Tensor
    logits: Tensor
    deltas: Tensor

    def of_image(self, index: int) -> Anchored:
        """What is said of one image."""
        return Anchored(self.anchors[index], self.logits[index], self.deltas[index])


class ProposalNetwork(nn.Module):
    """A layer of convolution, then objectness and box of every anchor.

    Args:
        channels: of the map.
        sizes: of anchors, square roots of their area in pixels.
        ratios: of anchors, height to width.
    """

    cells: Tensor

    def __init__(self, channels: int, sizes: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__()
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(sizes) * len(ratios), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(sizes) * len(ratios), 1)
        for layer in (self.shared, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=_DEVIATION)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        sides = [(size / ratio**0.5, size * ratio**0.5) for size in sizes for ratio in ratios]
        halves = torch.tensor(sides) / 2
        self.register_buffer("cells", torch.cat([-halves, halves], dim=1), persistent=False)

    def forward(self, features: Tensor) -> Anchored:
        """Of maps (B, channels, h, w); anchors are centred on the corners of cells, as detectron2's."""
        hidden = F.relu(self.shared(features))
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(features), logits.shape[1], 4)
        y, x = (torch.arange(side, device=features.device) * STRIDE for side in features.shape[2:])
        corners = torch.cartesian_prod(y, x).flip(1).repeat(1, 2)
        anchors = (corners[:, None] + self.cells).flatten(0, 1)
        return Anchored(anchors.expand_as(deltas), logits.float(), deltas.float())


@torch.no_grad()
def network_boxes(found: Anchored, size: tuple[int, int], settings: NetworkSettings) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) of an image, xyxy pixels, and the objectness (n,) of each, 0 to 1, by decreasing objectness.

    Args:
        found: of one image.
        size: its height and width.
        settings: how many stay.
    """
    best = found.logits.topk(min(settings.before_nms, len(found.logits))).indices
    scale = found.deltas.new_tensor(REGRESSION_WEIGHTS)
    boxes = decode(found.deltas[best] * scale, found.anchors[best])
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > settings.least_side).all(dim=1)
    boxes, logits = boxes[kept], found.logits[best][kept]
    rows = nms(boxes, logits, settings.nms)[: settings.most]
    return boxes[rows], logits[rows].sigmoid()


@torch.no_grad()
def anchor_labels(anchors: Tensor, seeds: Tensor, positive: float, negative: float) -> tuple[Tensor, Tensor]:
    """Labels int64 (A,), 1 for an object, 0 for none, -1 for neither, and the seed (A, 4) that each anchor overlaps most.

    The best anchors of a seed are objects, whatever their IoU.

    Args:
        anchors: (A, 4).
        seeds: (n, 4), at least one.
        positive: IoU from which on an anchor is an object.
        negative: IoU below which it is none.
    """
    overlaps = pairwise_iou(anchors, seeds)
    best, nearest = overlaps.max(dim=1)
    labels = torch.full_like(nearest, _IGNORED)
    labels[best < negative] = 0
    closest = (overlaps == overlaps.amax(dim=0)) & (overlaps > 0)
    labels[(best >= positive) | closest.any(dim=1)] = 1
    return labels, seeds[nearest]


def network_losses(found: Anchored, seeds: Tensor, settings: NetworkSettings) -> tuple[Tensor, Tensor]:
    """Cross entropy of objectness, and absolute differences of boxes, of the anchors that are drawn; over their number.

    An image without seeds has neither.

    Args:
        found: of one image.
        seeds: (n, 4), what it learns from.
        settings: thresholds, and how many anchors are drawn.
    """
    if not len(seeds):
        return found.logits.sum() * 0, found.deltas.sum() * 0
    labels, matched = anchor_labels(found.anchors, seeds, settings.positive, settings.negative)
    objects = _drawn(labels == 1, int(settings.anchors * settings.positive_share))
    others = _drawn(labels == 0, settings.anchors - len(objects))
    rows = torch.cat([objects, others])
    classes = F.binary_cross_entropy_with_logits(
        found.logits[rows], labels[rows].to(found.logits.dtype), reduction="sum"
    )
    targets = encode(matched[objects], found.anchors[objects]) / seeds.new_tensor(REGRESSION_WEIGHTS)
    distances = (found.deltas[objects] - targets).abs().sum()
    return classes / settings.anchors, distances / settings.anchors


def _drawn(kind: Tensor, most: int) -> Tensor:
    """At most so many rows of a kind, bool (A,), at random."""
    rows = kind.nonzero().flatten()
    return rows[torch.randperm(len(rows), device=rows.device)[:most]]
