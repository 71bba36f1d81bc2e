"""The knobs of the region tree; the defaults were chosen by proposal recall on images of VOC07 trainval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ColourSpace = Literal["lab", "hsv", "rgb"]


@dataclass(frozen=True)
class Oversegmentation:
    """One graph-based over-segmentation (Felzenszwalb and Huttenlocher, IJCV 2004), whose regions become leaves.

    Attributes:
        colour: the colour space in which neighbouring pixels are compared.
        scale: preference for larger regions (`k` of the paper).
        min_area: regions below this many pixels are joined to a neighbour.
    """

    colour: ColourSpace
    scale: float
    min_area: int


@dataclass(frozen=True)
class Criterion:
    """How alike two neighbouring regions are: a weighted mean of terms in [0, 1].

    All but the last are those of Selective Search (Uijlings et al., IJCV 2013, section 3.2).

    Attributes:
        lab: weight of the intersection of Lab colour histograms.
        hsv: weight of the intersection of HSV colour histograms.
        texture: weight of the intersection of histograms of oriented gradients.
        size: weight of "small regions first".
        fill: weight of "regions that fit into each other first".
        border: weight of "no edge between them": one minus the mean gradient along the common border.
    """

    lab: float = 0.0
    hsv: float = 0.0
    texture: float = 0.0
    size: float = 0.0
    fill: float = 0.0
    border: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.lab, self.hsv, self.texture, self.size, self.fill, self.border)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f"criterion: expected weights of 0 or more, one above 0, got {weights}")


DEFAULT_OVERSEGMENTATIONS = (
    Oversegmentation("lab", 50.0, 50),
    Oversegmentation("lab", 100.0, 100),
    Oversegmentation("hsv", 150.0, 150),
    Oversegmentation("lab", 300.0, 300),
)
DEFAULT_CRITERIA = (
    Criterion(lab=3, texture=3, size=1, fill=1),
    Criterion(texture=3, size=1, fill=1),
    Criterion(hsv=3, texture=3, size=1, fill=1),
    Criterion(size=1, fill=1),
    Criterion(size=1, fill=1, border=1),
    Criterion(lab=3, texture=3, size=1, fill=1, border=1),
)


@dataclass(frozen=True)
class RegionTreeSettings:
    """Everything that the region tree can be told.

    Attributes:
        oversegmentations: the sets of leaves; one tree per over-segmentation and criterion is built.
        criteria: the merging criteria.
        max_pixels: larger images are worked on at reduced size; masks and boxes come back at full size.
        smoothing: sigma, in pixels, of the Gaussian before over-segmentation.
        min_side: regions whose box has a shorter side, in working pixels, are no proposals.
        consensus_iou: boxes of other trees above this IoU speak for a box.
        consensus_weight, place_weight, fill_weight, shape_weight: weights in the quality, against 1 for persistence, of
            agreement between trees, of few larger nodes in the same tree, of how much of its box the region fills, and
            of boxes that are about square.
        peer_weight: weight, in [0, 1], of the place among nodes of like size when prompts choose; the rest is the quality,
            which alone would let large regions answer nearly every point.
        diverse_iou: boxes that overlap by more are suppressed in the head of a list of proposals.
        diverse_boxes: length of this head.
        precise_iou: boxes that overlap by more are suppressed in the rest of the list; not below `diverse_iou`.
        stability_offset: half width of the band of merging levels over which stability is measured.
        nesting_ratio: least ratio of area between part, object and whole, where the tree has such nodes.
        evidence_weight: weight of the activation maps, where `set_image` is given some.
    """

    oversegmentations: tuple[Oversegmentation, ...] = DEFAULT_OVERSEGMENTATIONS
    criteria: tuple[Criterion, ...] = DEFAULT_CRITERIA
    max_pixels: int = 250_000
    smoothing: float = 0.8
    min_side: int = 8
    consensus_iou: float = 0.75
    consensus_weight: float = 0.5
    place_weight: float = 0.5
    fill_weight: float = 0.3
    shape_weight: float = 0.5
    peer_weight: float = 0.7
    diverse_iou: float = 0.75
    diverse_boxes: int = 600
    precise_iou: float = 0.95
    stability_offset: float = 0.02
    nesting_ratio: float = 1.5
    evidence_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.oversegmentations or not self.criteria:
            raise ValueError(
                "region tree: expected at least one over-segmentation and one criterion, got none"
            )
        if self.diverse_boxes < 1 or not 0 <= self.diverse_iou <= self.precise_iou <= 1:
            raise ValueError(
                "region tree: expected diverse_boxes of 1 or more and 0 <= diverse_iou <= precise_iou <= 1, got "
                f"{self.diverse_boxes}, {self.diverse_iou} and {self.precise_iou}"
            )
        if not 0 < self.consensus_iou < 1:
            raise ValueError(f"region tree: expected 0 < consensus_iou < 1, got {self.consensus_iou}")
        if self.nesting_ratio < 1:
            raise ValueError(f"region tree: expected nesting_ratio of 1 or more, got {self.nesting_ratio}")
        if self.max_pixels < 1:
            raise ValueError(f"region tree: expected max_pixels of 1 or more, got {self.max_pixels}")
