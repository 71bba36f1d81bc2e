"""WSOVOD's proposal network, which learns from the boxes that its detector finds (spec 10c §2.5).

As the released configurations have it: anchors of many sizes at each cell of the map, their objectness and their boxes. Or
location-oriented, as its paper names it: a cell has one anchor, itself, and tells how well it lies in its box, too.
"""

from __future__ import annotations

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
_SMALLEST: Final = 1e-12


@dataclass(frozen=True)
class Anchored:
    """What the network says of the A anchors of an image, or of each of B.

    Attributes:
        anchors: (A, 4), xyxy pixels of the view, or (B, A, 4).
        logits: (A,) or (B, A), objectness.
        deltas: (A, 4) or (B, A, 4), from an anchor to its box, in its sides: dx, dy and logarithms of the sides; or, of the
            location-oriented form, how far left, top, right and bottom are from its centre.
        quality: (A,) or (B, A), logits of how well an anchor is centred in its box; of the location-oriented form alone.
    """

    anchors: Tensor
    logits: Tensor
    deltas: Tensor
    quality: Tensor | None = None

    def of_image(self, index: int) -> Anchored:
        """What is said of one image."""
        return Anchored(**{name: item[index] for name, item in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its fields, as far as there are any."""
        return {name: item for name, item in vars(self).items() if item is not None}

    def scores(self) -> Tensor:
        """Objectness (A,), 0 to 1; of the location-oriented form, its geometric mean with the quality."""
        own = self.logits.sigmoid()
        return own if self.quality is None else (own * self.quality.sigmoid()).sqrt()


class ProposalNetwork(nn.Module):
    """A layer of convolution, then objectness and box of every anchor.

    Anchors are centred on the corners of cells, as detectron2's, or are the cells themselves (interpretation, both).

    Args:
        channels: of the map.
        settings: of the anchors.
    """

    shapes: Tensor

    def __init__(self, channels: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.located = settings.form == "located"
        pairs = [(size, ratio**0.5) for size in settings.sizes for ratio in settings.ratios]
        halves = torch.tensor([(size / root, size * root) for size, root in pairs]) / 2
        shapes = torch.cat([-halves, halves], dim=1)
        if self.located:
            shapes = torch.tensor([[0.0, 0.0, STRIDE, STRIDE]])
        self.register_buffer("shapes", shapes, persistent=False)
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(shapes), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(shapes), 1)
        self.quality = nn.Conv2d(channels, 1, 1) if self.located else None
        for layer in self.children():
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.normal_(layer.weight, std=_DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Anchored:
        """Of maps (B, channels, h, w)."""
        hidden = F.relu(self.shared(features))
        if self.located:
            hidden = F.normalize(hidden, dim=1)
        logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(features), logits.shape[1], 4)
        y, x = (torch.arange(side, device=features.device) * STRIDE for side in features.shape[2:])
        corners = torch.cartesian_prod(y, x).flip(1).repeat(1, 2)
        anchors = (corners[:, None] + self.shapes).flatten(0, 1)
        quality = None if self.quality is None else self.quality(hidden).flatten(1).float()
        return Anchored(anchors.expand_as(deltas), logits.float(), deltas.float(), quality)


@torch.no_grad()
def network_boxes(found: Anchored, size: tuple[int, int], settings: NetworkSettings) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) of an image, xyxy pixels, and the objectness (n,) of each, 0 to 1, by decreasing objectness.

    Args:
        found: of one image.
        size: its height and width.
        settings: how many stay.
    """
    scores, best = found.scores().topk(min(settings.before_nms, len(found.logits)))
    deltas, anchors = found.deltas[best], found.anchors[best]
    if found.quality is None:
        boxes = decode(deltas * deltas.new_tensor(REGRESSION_WEIGHTS), anchors)
    else:
        reach = deltas * (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2) * deltas.new_tensor((-1, -1, 1, 1))
        boxes = _centres(anchors) + reach
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > settings.least_side).all(dim=1)
    boxes, scores = boxes[kept], scores[kept]
    rows = nms(boxes, scores, settings.nms)[: settings.most]
    return boxes[rows], scores[rows]


def _centres(anchors: Tensor) -> Tensor:
    """x, y, x, y of the centres (n, 4) of anchors (n, 4)."""
    return ((anchors[:, :2] + anchors[:, 2:]) / 2).repeat(1, 2)


def box_deltas(boxes: Tensor, anchors: Tensor, *, located: bool) -> Tensor:
    """Deltas (n, 4) that take anchors (n, 4) to boxes (n, 4), in either form, see `Anchored`."""
    if not located:
        return encode(boxes, anchors) / boxes.new_tensor(REGRESSION_WEIGHTS)
    reach = (boxes - _centres(anchors)) * boxes.new_tensor((-1, -1, 1, 1))
    return reach / (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)


def centredness(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """How well anchors are centred in boxes, 0 to 1, of location-oriented deltas (n, 4); and whether they lie inside, bool.

    The release leaves out those that are outside on one side alone.
    """
    inside = (deltas >= 0).all(dim=1)
    sides = deltas.unflatten(1, (2, 2))
    shares = sides.amin(dim=1) / sides.amax(dim=1).clamp(min=_SMALLEST)
    return shares.clamp(min=0).prod(dim=1).sqrt(), inside


@torch.no_grad()
def anchor_labels(anchors: Tensor, seeds: Tensor, positive: float, negative: float) -> tuple[Tensor, Tensor]:
    """Labels int64 (A,), 1 for an object, 0 for none, -1 for neither, and the seed (A, 4) that each anchor overlaps most.

    The best anchors of a seed are objects, whatever their IoU.

    Args:
        anchors: (A, 4).
        seeds: (n, 4); without any nothing is said of an anchor.
        positive: IoU from which on an anchor is an object.
        negative: IoU below which it is none.
    """
    if not len(seeds):
        return torch.full_like(anchors[:, 0], _IGNORED, dtype=torch.int64), anchors
    overlaps = pairwise_iou(anchors, seeds)
    best, nearest = overlaps.max(dim=1)
    labels = torch.full_like(nearest, _IGNORED)
    labels[best < negative] = 0
    closest = (overlaps == overlaps.amax(dim=0)) & (overlaps > 0)
    labels[(best >= positive) | closest.any(dim=1)] = 1
    return labels, seeds[nearest]


def network_losses(found: Anchored, seeds: Tensor, settings: NetworkSettings) -> dict[str, Tensor]:
    """Of the anchors that are drawn, over their number; 0 in an image without seeds.

    `loss_rpn_cls` is the cross entropy of objectness, `loss_rpn_loc` are absolute differences of deltas, and of the
    location-oriented form `loss_rpn_obj` those of quality.

    Args:
        found: of one image.
        seeds: (n, 4), what it learns from.
        settings: thresholds, and how many anchors are drawn.
    """
    labels, matched = anchor_labels(found.anchors, seeds, settings.positive, settings.negative)
    objects = _drawn(labels == 1, int(settings.anchors * settings.positive_share))
    others = _drawn(labels == 0, settings.anchors - len(objects))
    rows = torch.cat([objects, others])
    classes = F.binary_cross_entropy_with_logits(
        found.logits[rows], labels[rows].to(found.logits.dtype), reduction="sum"
    )
    located = found.quality is not None
    targets = box_deltas(matched[objects], found.anchors[objects], located=located)
    distances = (found.deltas[objects] - targets).abs().sum()
    losses = {"loss_rpn_cls": classes / settings.anchors, "loss_rpn_loc": distances / settings.anchors}
    if found.quality is not None:
        labels, matched = anchor_labels(found.anchors, seeds, *settings.quality)
        rows = _drawn(labels == 1, int(settings.anchors * settings.positive_share))
        wanted, inside = centredness(box_deltas(matched[rows], found.anchors[rows], located=True))
        differences = (found.quality[rows].sigmoid() - wanted).abs() * inside
        losses["loss_rpn_obj"] = differences.sum() / settings.anchors
    return losses


def _drawn(kind: Tensor, most: int) -> Tensor:
    """At most so many rows of a kind, bool (A,), at random."""
    rows = kind.nonzero().flatten()
    return rows[torch.randperm(len(rows), device=rows.device)[:most]]
