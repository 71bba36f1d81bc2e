"""Segment Anything over a grid of points and the points of clues, as the published system drives it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError
from weaksam_cli.propose.prompting import PromptingSettings, Segmenter, assemble
from weaksam_cli.propose.stage import Propose, proposal_steps

SamVariant = Literal["vit_h", "vit_l", "vit_b"]


class Recipe(PromptingSettings):
    """Segment Anything over a grid of points and the clue points.

    Attributes:
        model: which network; the checkpoint must fit it.
        weights: file name of the checkpoint, or its path.
        compile: run the encoder through torch.compile, on CUDA only; pays from some hundred images on.
    """

    method: Literal["sam"] = "sam"
    model: SamVariant
    weights: str
    compile: bool = False


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split."""
    weights = context.weights.require(recipe.weights)
    sources = recipe.clues.sources
    return proposal_steps(
        recipe, context, split, build, prompted_by=sources, weights=weights, uses_torch=True
    )


def build(recipe: Recipe, weights: Path, device: str) -> Propose:
    """What computes the proposals of an image; see `open_segmenter`."""
    return partial(assemble, open_segmenter(recipe, weights, device), recipe)


def open_segmenter(recipe: Recipe, weights: Path, device: str) -> Segmenter:
    """Load the network.

    Raises:
        UserError: a checkpoint that does not fit, a precision or compilation that the device is not good at.
    """
    from weaksam_cli.propose.sam.segmenter import SamSegmenter, load_sam, set_precision
    from weaksam_cli.propose.torch_segmenter import choose_dtype

    if recipe.compile and not device.startswith("cuda"):
        raise UserError(
            f"torch.compile gains nothing on {device}",
            where="propose recipe, compile",
            remedy="Leave it out, or use --device cuda",
        )
    dtype = choose_dtype(recipe.precision, device)
    sam = load_sam(recipe.model, weights, device=device)
    set_precision(sam, dtype)
    return SamSegmenter(sam, points_per_batch=recipe.points_per_batch, compiled=recipe.compile)
