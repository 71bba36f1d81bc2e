"""SAM, SAM-HQ, SAM 2 and SAM 3 (its promptable segmenter) through `transformers`, from a folder on this machine.

`transformers` is an optional extra, `weaksam-cli[hf]`. The folder is one that it publishes or saves: `config.json`,
`preprocessor_config.json` (or `processor_config.json`) and `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose.prompting import PromptingSettings, Segmenter, assemble
from weaksam_cli.propose.stage import Propose, proposal_steps

_CONFIGS: Final = ("config.json", "preprocessor_config.json", "processor_config.json")
REMEDY: Final = "Get the whole folder: hf download OWNER/NAME --local-dir FOLDER (weaksam weights says which)"


class Recipe(PromptingSettings):
    """A SAM of `transformers` over a grid of points and the clue points, prompted and filtered as the method `sam`.

    Attributes:
        weights: `model.safetensors` in its folder: below a folder of weights, or a path.
    """

    method: Literal["hf_sam"] = "hf_sam"
    weights: str


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split; the configuration beside the weights is an input, too.

    Raises:
        UserError: the folder is not here or not whole.
    """
    weights = context.weights.require(recipe.weights, remedy=REMEDY)
    configs = {name: weights.parent / name for name in _CONFIGS if (weights.parent / name).is_file()}
    for step in proposal_steps(
        recipe, context, split, build, prompted_by=recipe.clues.sources, weights=weights, uses_torch=True
    ):
        yield replace(step, inputs={**step.inputs, **configs})


def build(recipe: Recipe, weights: Path, device: str) -> Propose:
    """What computes the proposals of an image; see `open_segmenter`."""
    return partial(assemble, open_segmenter(recipe, weights, device), recipe)


def open_segmenter(recipe: Recipe, weights: Path, device: str) -> Segmenter:
    """Load the network.

    Raises:
        UserError: `transformers` is not installed, or the folder does not hold a network that it can prompt.
    """
    from weaksam_cli.propose.hf_sam.segmenter import HfSegmenter, load_network
    from weaksam_cli.propose.torch_segmenter import choose_dtype

    dtype = choose_dtype(recipe.precision, device)
    model, processor = load_network(weights.parent)
    return HfSegmenter(model.to(device), processor, points_per_batch=recipe.points_per_batch, dtype=dtype)
