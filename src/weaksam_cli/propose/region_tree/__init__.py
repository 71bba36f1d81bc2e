"""The embedded promptable segmenter: nodes of binary partition trees answer prompts as SAM does.

The defaults of its knobs were chosen by proposal recall on images of VOC07 trainval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from weaksam_cli.artifacts.proposals import CLUE_SOURCES, Proposals, Source
from weaksam_cli.core.settings import RecipeModel, Weight
from weaksam_cli.core.types import Points
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose.prompting import clue_proposals, without_repeats
from weaksam_cli.propose.stage import MOST_BOXES, MOST_PIXELS, ClueSettings, Propose, proposal_steps

MASKS_BY: Final = "region-tree-masks"
"""The recipe that answers boxes better."""

if TYPE_CHECKING:
    from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter

ColourSpace = Literal["lab", "hsv", "rgb"]


class Oversegmentation(RecipeModel):
    """One graph-based over-segmentation (Felzenszwalb and Huttenlocher, IJCV 2004), whose regions become leaves.

    Attributes:
        colour: the colour space in which neighbouring pixels are compared.
        scale: preference for larger regions (`k` of the paper).
        min_area: regions below this many pixels are joined to a neighbour.
    """

    colour: ColourSpace
    scale: float = Field(gt=0, le=1e6)
    min_area: int = Field(ge=1, le=MOST_PIXELS)


class Criterion(RecipeModel):
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

    lab: Weight = 0.0
    hsv: Weight = 0.0
    texture: Weight = 0.0
    size: Weight = 0.0
    fill: Weight = 0.0
    border: Weight = 0.0

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("expected weights of which one is above 0, got none")
        return self


DEFAULT_OVERSEGMENTATIONS = (
    Oversegmentation(colour="lab", scale=50.0, min_area=50),
    Oversegmentation(colour="lab", scale=100.0, min_area=100),
    Oversegmentation(colour="hsv", scale=150.0, min_area=150),
    Oversegmentation(colour="lab", scale=300.0, min_area=300),
)
DEFAULT_CRITERIA = (
    Criterion(lab=3, texture=3, size=1, fill=1),
    Criterion(texture=3, size=1, fill=1),
    Criterion(hsv=3, texture=3, size=1, fill=1),
    Criterion(size=1, fill=1),
    Criterion(size=1, fill=1, border=1),
    Criterion(lab=3, texture=3, size=1, fill=1, border=1),
)


class TreeSettings(RecipeModel):
    """The trees of an image, and how their nodes are ranked.

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
    """

    oversegmentations: tuple[Oversegmentation, ...] = Field(
        default=DEFAULT_OVERSEGMENTATIONS, min_length=1, max_length=20
    )
    criteria: tuple[Criterion, ...] = Field(default=DEFAULT_CRITERIA, min_length=1, max_length=20)
    max_pixels: int = Field(default=250_000, ge=1_000, le=MOST_PIXELS)
    smoothing: float = Field(default=0.8, gt=0, le=50)
    min_side: int = Field(default=8, ge=1, le=2_000)
    consensus_iou: float = Field(default=0.75, gt=0, lt=1)
    consensus_weight: Weight = 0.5
    place_weight: Weight = 0.5
    fill_weight: Weight = 0.3
    shape_weight: Weight = 0.5
    peer_weight: float = Field(default=0.7, ge=0, le=1)
    diverse_iou: float = Field(default=0.75, ge=0, le=1)
    diverse_boxes: int = Field(default=600, ge=1, le=MOST_BOXES)
    precise_iou: float = Field(default=0.95, ge=0, le=1)
    stability_offset: float = Field(default=0.02, ge=0, le=1)
    nesting_ratio: float = Field(default=1.5, ge=1, le=1_000)

    @model_validator(mode="after")
    def _head_before_rest(self) -> Self:
        if self.diverse_iou > self.precise_iou:
            raise ValueError(
                f"expected diverse_iou <= precise_iou, got {self.diverse_iou} and {self.precise_iou}"
            )
        return self


class Recipe(RecipeModel):
    """The embedded segmenter: nodes of binary partition trees.

    Attributes:
        grid_boxes: most proposals of the spatial grid, the best first.
        clue_nms: a clue's box whose IoU with a box of the grid, or with an earlier clue's that stays, is above this goes.
        clues: prompts from classification clues.
        masks: store masks as RLE.
        tree: how regions are found and ranked.
    """

    method: Literal["region_tree"] = "region_tree"
    grid_boxes: int = Field(default=300, ge=1, le=MOST_BOXES)
    clue_nms: float = Field(default=0.9, gt=0, le=1)
    clues: ClueSettings = ClueSettings()
    masks: bool = False
    tree: TreeSettings = TreeSettings()


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split."""
    return proposal_steps(recipe, context, split, build, prompted_by=recipe.clues.sources)


def open_segmenter(recipe: Recipe, _weights: Path | None, _device: str) -> RegionTreeSegmenter:
    """Load the libraries; there are no weights."""
    from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter

    return RegionTreeSegmenter(recipe.tree)


def build(recipe: Recipe, _weights: Path | None, _device: str) -> Propose:
    """What computes the proposals of an image."""
    segmenter = open_segmenter(recipe, None, "cpu")

    def propose(image: NDArray[np.uint8], points: Mapping[Source, Points]) -> Proposals:
        segmenter.set_image(image)
        grid = segmenter.grid_proposals(recipe.grid_boxes, masks=recipe.masks)
        clues = [
            clue_proposals(segmenter, points[source], source, recipe.clues, masks=recipe.masks)
            for source in CLUE_SOURCES
            if source in points
        ]
        if not clues:
            return grid
        new = without_repeats(Proposals.concatenate(clues), grid.boxes, recipe.clue_nms)
        return Proposals.concatenate([grid, new])

    return propose
