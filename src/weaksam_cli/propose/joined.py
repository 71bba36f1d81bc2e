"""The proposals of two methods as one list: one that knows where boxes end, and one that knows where objects are.

Boxes that no clue prompted (grid, search) are taken from both lists in turn, thinned and cut to a number; the boxes of clues
follow. Before that, a box of the second list can be replaced by the one of the first that fits it best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializeAsAny

from weaksam_cli.artifacts.proposals import CLUE_SOURCES, SOURCES, Proposals, Source
from weaksam_cli.core.boxes import iou, score_free_nms
from weaksam_cli.core.settings import RecipeModel, read_yaml_mapping
from weaksam_cli.core.types import Points
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.methods import load_method
from weaksam_cli.engine.recipes import find_recipe
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose.stage import MOST_BOXES, ClueSettings, ClueSource, Propose, proposal_steps

MASKS_BY: Final = "region-tree-masks"
"""The recipe that answers boxes, which a list of proposals does not."""

_CLUES = [SOURCES.index(source) for source in CLUE_SOURCES]


def _part(values: Any) -> Any:
    """The recipe of another method of this stage, by its `method`, or by the `recipe` that the other keys change."""
    if isinstance(values, dict) and "recipe" in values:
        named = read_yaml_mapping(find_recipe("propose", str(values["recipe"])))
        values = named | {name: value for name, value in values.items() if name != "recipe"}
    if not isinstance(values, dict) or not isinstance(values.get("method"), str):
        return values
    method = load_method("propose", values["method"], where="propose recipe, method of a part")
    return method.Recipe.model_validate(values | {"method": values["method"].replace("-", "_")})


Turn = Annotated[int, Field(ge=1, le=MOST_BOXES)]
Part = Annotated[SerializeAsAny[RecipeModel], BeforeValidator(_part)]


class Recipe(RecipeModel):
    """Two methods of `propose`, joined; both run on the CPU.

    Attributes:
        first, second: their recipes: `recipe` names one, and other keys change it.
        turns: how many boxes of the first list, then of the second, are taken at a time.
        snap: instead of each box of the second list the box of the first is taken whose IoU with it plus `snap` times its
            predicted IoU is greatest, which is worth it where the first list is long; null to take the box itself.
        clues: prompts from classification clues, in the place of those that the two recipes have.
        max_boxes: most boxes besides those of clues.
        nms: a box whose IoU with one taken earlier is above this goes.
        clue_nms: a clue's box whose IoU with an earlier box is above this goes.
    """

    method: Literal["joined"] = "joined"
    first: Part
    second: Part
    turns: tuple[Turn, Turn] = (1, 1)
    snap: float | None = Field(default=None, ge=0, le=1e6)
    clues: ClueSettings = ClueSettings()
    max_boxes: int = Field(default=300, ge=1, le=MOST_BOXES)
    nms: float = Field(default=0.85, gt=0, le=1)
    clue_nms: float = Field(default=0.9, gt=0, le=1)

    @property
    def parts(self) -> list[Any]:
        """Both recipes, with the clues of the whole where they take any."""
        return [
            part.model_copy(update={"clues": self.clues}) if "clues" in type(part).model_fields else part
            for part in (self.first, self.second)
        ]


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split; the inputs are those of both methods.

    Raises:
        UserError: a method lacks what it needs.
    """
    weights: list[Path | None] = []
    inputs: dict[str, Path] = {}
    for number, part in enumerate(recipe.parts, start=1):
        (step,) = _module(part).steps(part, context, split)
        weights.append(step.inputs.get("weights"))
        inputs |= {
            f"weights-{number}" if name == "weights" else name: path for name, path in step.inputs.items()
        }
    sources = list(dict.fromkeys(source for part in recipe.parts for source in _sources(part)))
    for step in proposal_steps(recipe, context, split, partial(build_parts, weights), prompted_by=sources):
        yield replace(step, inputs={**inputs, **step.inputs})


def _module(part: Any) -> Any:
    return load_method("propose", part.method, where="propose recipe, method of a part")


def _sources(part: Any) -> tuple[ClueSource, ...]:
    """The kinds of points that prompt a method; a method without `clues` takes none."""
    clues = getattr(part, "clues", None)
    return clues.sources if clues else ()


def build_parts(weights: list[Path | None], recipe: Recipe, _weights: Path | None, device: str) -> Propose:
    """Load both methods, each with its own weights."""
    proposers: list[Propose] = [
        _module(part).build(part, path, device) for part, path in zip(recipe.parts, weights, strict=True)
    ]

    def propose(image: NDArray[np.uint8], points: Mapping[Source, Points]) -> Proposals:
        found = [
            proposer(image, {source: points[source] for source in _sources(part) if source in points})
            for proposer, part in zip(proposers, recipe.parts, strict=True)
        ]
        return join(found[0], found[1], recipe)

    return propose


def join(first: Proposals, second: Proposals, recipe: Recipe) -> Proposals:
    """Both lists of one image as one; masks that only one of them has are kept, the others are empty."""
    if (first.counts is None) != (second.counts is None):
        first, second = (
            item if item.counts is not None else replace(item, counts=[b""] * len(item))
            for item in (first, second)
        )
    plain = [part.take(~np.isin(part.source, _CLUES)) for part in (first, second)]
    if recipe.snap is not None and len(plain[0]):
        fit = iou(plain[1].boxes, plain[0].boxes) + np.float32(recipe.snap) * np.nan_to_num(
            plain[0].predicted_iou
        )
        plain[1] = plain[0].take(fit.argmax(axis=1))
    # The round in which a box is taken; the sort is stable, so the first list leads each round.
    rounds = [np.arange(len(part)) // turn for part, turn in zip(plain, recipe.turns, strict=True)]
    both = Proposals.concatenate(plain).take(np.argsort(np.concatenate(rounds), kind="stable"))
    both = both.take(score_free_nms(both.boxes, recipe.nms, plus_one=False)[: recipe.max_boxes])
    clues = [part.take(np.isin(part.source, _CLUES)) for part in (first, second)]
    joined = Proposals.concatenate([both, *clues])
    stays = np.arange(len(joined)) < len(both)
    stays[score_free_nms(joined.boxes, recipe.clue_nms, plus_one=False)] = True
    return joined.take(stays)
