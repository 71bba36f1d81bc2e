"""Recipes: found by name or path, changed by `--set`, parsed into the model of their method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from weaksam_cli.artifacts.receipt import Receipt
from weaksam_cli.core.settings import (
    MAX_DEPTH,
    UNREADABLE,
    Lines,
    Loader,
    RecipeModel,
    check_sizes,
    place_of,
    read_yaml,
    refusal,
    stages_folder,
)
from weaksam_cli.engine.methods import load_method
from weaksam_cli.errors import UserError, suggestion

if TYPE_CHECKING:
    from weaksam_cli.engine.context import Context
    from weaksam_cli.engine.steps import Step


@dataclass(frozen=True)
class LoadedRecipe:
    """A validated recipe, and where it came from.

    Attributes:
        name: of the file, without its suffix.
        path: the file.
        method: the module of its method, see `engine.methods`.
        recipe: an instance of the method's `Recipe`.
    """

    name: str
    path: Path
    method: Any
    recipe: RecipeModel

    def resolved(self) -> dict[str, Any]:
        """Every field with its value, defaults included, as plain JSON values."""
        return self.recipe.model_dump(mode="json")

    def steps(self, context: Context, split: str) -> Iterator[Step]:
        """The steps of the method for a split; each is made before the next is asked for."""
        whole = self.resolved()
        for step in self.method.steps(self.recipe, context, split):
            yield replace(step, recipe=whole)


def recipe_names(stage: str) -> list[str]:
    """Names of the recipes that come with a stage."""
    return sorted(path.stem for path in (stages_folder() / stage).glob("*.yaml"))


def find_recipe(stage: str, name: str) -> Path:
    """The file of a recipe given by name or by path.

    Raises:
        UserError: when there is none; the message lists the names and suggests the nearest.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if path.is_file():
            return path
        raise UserError("there is no such recipe file", where=name)
    path = stages_folder() / stage / f"{name}.yaml"
    if path.is_file():
        return path
    names = recipe_names(stage)
    raise UserError(
        f"{stage} has no recipe {name!r}{suggestion(name, names)}",
        where="--recipe",
        remedy=f"Allowed: {', '.join(names)}, or the path of a YAML file",
    )


def load_recipe(stage: str, name: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, change and validate a recipe.

    Args:
        stage: the stage that it is for.
        name: recipe name, or the path of a YAML file; its `method` names a module of the stage.
        overrides: `key=value` strings (`--set`), dotted keys for nested values, values in YAML.

    Raises:
        UserError: unknown key, bad value, unknown or missing `method`: names the line, what was given and what is allowed.
    """
    path = find_recipe(stage, name)
    values, lines = read_yaml(path)
    for text in overrides:
        override(values, lines, text)
    check_sizes(values, lines, path)
    method = load_method(stage, str(values.get("method")), where=place_of(path, lines, ("method",)))
    values["method"] = values["method"].replace("-", "_")
    try:
        recipe = method.Recipe.model_validate(values)
    except ValidationError as error:
        raise refusal(path, lines, method.Recipe, error) from error
    check_sizes(
        recipe.model_dump(), lines, path
    )  # YAML reads 1e38 as a text, which becomes a number in its field
    return LoadedRecipe(path.stem, path, method, recipe)


def recorded_recipe(receipt: Receipt) -> LoadedRecipe:
    """The recipe that an artifact was made with, for making the like of other images.

    Raises:
        UserError: this program has no such method, or the method other settings.
    """
    identity = receipt.identity
    values = dict(receipt.recipe)
    if not values:  # of a version that did not note it: the recipe as it stands here
        values = load_recipe(identity.stage, identity.recipe_name).resolved()
    where = f"{receipt.artifact}: its recipe"
    method = load_method(identity.stage, str(values.get("method")), where=where)
    try:
        recipe = method.Recipe.model_validate(values)
    except ValidationError as error:
        raise refusal(Path(receipt.artifact), {}, method.Recipe, error) from error
    return LoadedRecipe(identity.recipe_name, Path(receipt.artifact), method, recipe)


def override(values: dict[str, Any], lines: Lines, text: str, option: str = "--set") -> None:
    """Change a value of a mapping in place, as `key=value` says it; `option` is where that was typed.

    Raises:
        UserError: another form, or a key below a value.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"expected key=value, got {text!r}", where=option)
    names = tuple(key.strip().split(".", MAX_DEPTH))
    if "." in names[-1] or not all(names):
        what = f"{key[:80]!r} is no key: names of at most {MAX_DEPTH} levels stand between dots"
        raise UserError(what, where=option)
    target = values
    for name in names[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"{name!r} of {key!r} is a value, not a group of keys", where=option)
    try:
        target[names[-1]] = yaml.load(raw, Loader=Loader)
    except UNREADABLE as error:
        raise UserError(
            f"the value of {key!r} is not readable as YAML: {raw[:80]!r}", where=option
        ) from error
    lines[names] = f"{option} {text}"
