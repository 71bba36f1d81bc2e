"""Profiles: a named recipe for every stage; `auto` takes the published system when all its weights are found.

Where a profile lists several recipes for a stage, the first whose weights are found is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weaksam_cli.core.settings import read_yaml_mapping, stages_folder
from weaksam_cli.engine.recipes import find_recipe, recipe_names
from weaksam_cli.engine.stages import STAGE_NAMES
from weaksam_cli.errors import UserError, suggestion
from weaksam_cli.models.weights.catalogue import WeightsFinder, weights_names

AUTO = "auto"
PREFERRED, FALLBACK = "paper", "embedded"


@dataclass(frozen=True)
class Profile:
    """A recipe for every stage.

    Attributes:
        name: the profile.
        recipes: stage -> recipe name.
        weights: files that its recipes need.
        passed_over: recipes that it would rather have, and the weights that each lacks.
    """

    name: str
    recipes: dict[str, str]
    weights: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    def missing(self, finder: WeightsFinder) -> list[str]:
        """What this machine lacks for the profile: weights files, and recipes that this version does not bring."""
        absent = [
            f"recipe {stage}/{name}"
            for stage, name in self.recipes.items()
            if name not in recipe_names(stage)
        ]
        return absent + [name for name in self.weights if finder.find(name) is None]


def profile_names() -> list[str]:
    """Names of all profiles, `auto` first."""
    return [AUTO, *sorted(path.stem for path in (stages_folder() / "profiles").glob("*.yaml"))]


def read_profile(name: str, finder: WeightsFinder) -> Profile:
    """Read one profile; `finder` decides between the recipes that it lists for a stage.

    Raises:
        UserError: an unknown profile, or a file that is not one.
    """
    names = profile_names()
    if name not in names:
        raise UserError(
            f"there is no profile {name!r}{suggestion(name, names)}",
            where="--profile",
            remedy=f"Allowed: {', '.join(names)}",
        )
    path = stages_folder() / "profiles" / f"{name}.yaml"
    values = read_yaml_mapping(path)
    recipes: Any = values.get("recipes")
    weights: Any = values.get("weights", [])
    if not isinstance(recipes, dict) or set(recipes) != set(STAGE_NAMES) or not isinstance(weights, list):
        raise UserError(
            f"expected `recipes` with a recipe for each of {', '.join(STAGE_NAMES)}", where=str(path)
        )
    chosen, passed_over = {}, []
    for stage, given in recipes.items():
        *better, last = map(str, given) if isinstance(given, list) else [str(given)]
        chosen[str(stage)] = last
        for recipe in better:
            lacking = _lacking(stage, recipe, finder)
            if not lacking:
                chosen[str(stage)] = recipe
                break
            passed_over.append(f"not {stage}/{recipe}, which needs {', '.join(lacking)}")
    return Profile(name, chosen, tuple(map(str, weights)), tuple(passed_over))


def _lacking(stage: str, recipe: str, finder: WeightsFinder) -> list[str]:
    """The weights files of a recipe that are not here."""
    names = weights_names(read_yaml_mapping(find_recipe(stage, recipe)))
    return [name for name in names if finder.find(name) is None]


def choose_profile(name: str, finder: WeightsFinder) -> tuple[Profile, str]:
    """The profile to run, and one line that says which and why.

    Raises:
        UserError: an unknown profile, or one that this machine lacks files for.
    """
    if name != AUTO:
        profile = read_profile(name, finder)
        missing = profile.missing(finder)
        if missing:
            raise UserError(
                f"profile {name!r} cannot run here, missing: {', '.join(missing)}",
                where="--profile",
                remedy="Put the weights into --weights-dir or WEAKSAM_WEIGHTS, or use --profile embedded",
            )
        return profile, f"profile {name}{_without(profile)}"
    preferred = read_profile(PREFERRED, finder)
    missing = preferred.missing(finder)
    if not missing:
        return preferred, f"profile {PREFERRED} (all its weights were found)"
    profile = read_profile(FALLBACK, finder)
    return (
        profile,
        f"profile {FALLBACK} (needs no weights; {PREFERRED} would need: {', '.join(missing)}){_without(profile)}",
    )


def _without(profile: Profile) -> str:
    return "".join(f"; {text}" for text in profile.passed_over)
