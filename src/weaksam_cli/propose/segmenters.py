"""Segmenters by name: which recipe of `propose` answers box prompts, for stages that need masks and no proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.recipes import LoadedRecipe, load_recipe, recipe_names, recorded_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.propose.prompting import Segmenter

BEST_FIRST: Final = ("sam-vit-h", "sam-vit-l", "sam-vit-b")
"""Recipes of the published segmenter; each needs its weights."""
WITHOUT_WEIGHTS: Final = "region-tree"
_OPEN: Final = "open_segmenter"
"""The function of a method's module, from its recipe, the file of its weights and a torch device to a `Segmenter`."""
_MASKS_BY: Final = "MASKS_BY"
"""A method whose answers to boxes are not the best that its proposals allow names with it the recipe whose are."""
_OF_IMAGES: Final = ("data", "prompt")


@dataclass(frozen=True)
class ChosenSegmenter:
    """A segmenter that can be opened, once a process.

    Attributes:
        name: of its recipe.
        module: of its method.
        recipe: the method's.
        inputs: name -> file that it is made from: weights, and what lies beside them.
    """

    name: str
    module: str
    recipe: RecipeModel
    inputs: Mapping[str, Path]

    def open(self, device: str) -> Segmenter:
        """Load the network.

        Raises:
            UserError: see the method.
        """
        from importlib import import_module

        opened: Segmenter = getattr(import_module(self.module), _OPEN)(
            self.recipe, self.inputs.get("weights"), device
        )
        return opened

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its answers, as plain values."""
        return self.recipe.model_dump(mode="json")


def best_recipe(context: Context) -> tuple[str, str]:
    """The best recipe of a segmenter whose weights are here, and why."""
    absent: list[str] = []
    for name in BEST_FIRST:
        weights = load_recipe("propose", name).resolved()["weights"]
        found = context.weights.find(weights)
        if found is not None:
            better = f" ({', '.join(absent)} not found)" if absent else ""
            return name, f", the best whose weights are here: {found}{better}"
        absent.append(weights)
    return WITHOUT_WEIGHTS, f", which needs no weights (found none of {', '.join(absent)})"


def choose_segmenter(name: str | None, context: Context, split: str, *, where: str) -> ChosenSegmenter:
    """The segmenter of a recipe; without a name, the one that made the run's proposals, else the best that is here.

    Of either, the method may name another recipe for masks.

    Args:
        name: of a recipe of `propose`, or the path of one.
        context: what the command was told; its console is told of a choice.
        split: whose proposals are looked at.
        where: the setting, for messages.

    Raises:
        UserError: a recipe whose method answers no prompts, or whose weights are not found.
    """
    loaded = load_recipe("propose", name) if name else _for_masks(_of_proposals(context, split), context)
    if not hasattr(loaded.method, _OPEN):
        named = [item for item in recipe_names("propose") if _answers(item)]
        what = f"recipe {loaded.name} of propose makes boxes and answers no prompts, so it makes no masks"
        remedy = f"Name one that does: {', '.join(named)}"
        raise UserError(what, where=where, remedy=remedy)
    step = next(iter(loaded.steps(context, split)))
    inputs = {key: path for key, path in step.inputs.items() if key not in _OF_IMAGES}
    return ChosenSegmenter(loaded.name, loaded.method.__name__, loaded.recipe, inputs)


def _of_proposals(context: Context, split: str) -> LoadedRecipe:
    proposals = context.run.input("propose", split)
    receipt = read_receipt(proposals) if proposals.is_file() else None
    if receipt is not None and receipt.identity.stage == "propose":
        return recorded_recipe(receipt)
    name, why = best_recipe(context)
    context.console.info(f"no proposals to go by: segmenter {name}{why}", segmenter=name)
    return load_recipe("propose", name)


def _for_masks(loaded: LoadedRecipe, context: Context) -> LoadedRecipe:
    """The recipe itself, or the one that its method names for masks."""
    better = getattr(loaded.method, _MASKS_BY, None)
    if better is None:
        return loaded
    what = f"segmenter {better}: its masks of boxes are better than those of {loaded.name}"
    context.console.info(what, segmenter=better)
    return load_recipe("propose", better)


def _answers(name: str) -> bool:
    return hasattr(load_recipe("propose", name).method, _OPEN)
