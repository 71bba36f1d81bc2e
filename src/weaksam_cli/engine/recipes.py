"""Recipes: YAML files parsed into one frozen, typed object, and refused in words when they do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from weaksam_cli.engine.methods import load_method
from weaksam_cli.errors import UserError, suggestion

if TYPE_CHECKING:
    from weaksam_cli.engine.context import Context
    from weaksam_cli.engine.steps import Step

P = TypeVar("P", bound="RecipeModel")


class RecipeModel(BaseModel):
    """Base of all recipe and settings types: frozen, and a key that nothing reads is refused.

    A recipe that feeds several steps inherits from one settings class a step, and each step gets its `part` alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def part(self, settings: type[P]) -> P:
        """The fields that `settings`, which this recipe inherits from, declares."""
        return settings.model_validate({name: getattr(self, name) for name in settings.model_fields})


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
        found: Iterator[Step] = self.method.steps(self.recipe, context, split)
        return found


def stages_folder() -> Path:
    """The folder of recipes: inside the installed package, or `stages/` of the source tree."""
    inside = Path(__file__).parents[1] / "_stages"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "stages"


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
    values, lines = _read(path)
    for text in overrides:
        _override(values, lines, text)
    method = load_method(stage, str(values.get("method")), where=_place(path, lines, ("method",)))
    values["method"] = values["method"].replace("-", "_")
    try:
        recipe = method.Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(path, lines, method.Recipe, error) from error
    return LoadedRecipe(path.stem, path, method, recipe)


_Lines = dict[tuple[str, ...], str]


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, with safe tags only.

    Raises:
        UserError: when it is not readable YAML or not a mapping.
    """
    return _read(path)[0]


class _Loader(yaml.SafeLoader):
    """Safe tags only, and no aliases: eleven short lines of them stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"expected a value, got the alias *{event.anchor}: write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


_UNREADABLE = (yaml.YAMLError, ValueError, OverflowError, RecursionError, OSError)
"""What a text that is no YAML, or has tags with other values than theirs, makes the library raise."""


def _read(path: Path) -> tuple[dict[str, Any], _Lines]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader)
    except _UNREADABLE as error:
        raise UserError(f"not readable as YAML: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError("expected a mapping of keys to values", where=str(path))
    lines: _Lines = {}
    _collect_lines(node, (), lines, path)
    return values, lines


def _collect_lines(node: yaml.MappingNode, prefix: tuple[str, ...], lines: _Lines, path: Path) -> None:
    for key, value in node.value:
        name = (*prefix, str(key.value))
        if name in lines:
            raise UserError(f"key {'.'.join(name)!r} stands twice", where=f"{path}:{key.start_mark.line + 1}")
        lines[name] = f"{path}:{key.start_mark.line + 1}"
        if isinstance(value, yaml.MappingNode):
            _collect_lines(value, name, lines, path)


def _override(values: dict[str, Any], lines: _Lines, text: str) -> None:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"expected key=value, got {text!r}", where="--set")
    names = tuple(key.strip().split("."))
    target = values
    for name in names[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"{name!r} of {key!r} is a value, not a group of keys", where="--set")
    try:
        target[names[-1]] = yaml.load(raw, Loader=_Loader)
    except _UNREADABLE as error:
        raise UserError(
            f"the value of {key!r} is not readable as YAML: {raw[:80]!r}", where="--set"
        ) from error
    lines[names] = f"--set {text}"


def _place(path: Path, lines: _Lines, names: tuple[str, ...]) -> str:
    for length in range(len(names), 0, -1):
        if names[:length] in lines:
            return lines[names[:length]]
    return str(path)


def _explain(path: Path, lines: _Lines, model: type[BaseModel], error: ValidationError) -> UserError:
    first = error.errors()[0]
    names, allowed = _key(model, first["loc"])
    place = _place(path, lines, names)
    more = f" ({error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return UserError(
            f"unknown key {'.'.join(names)!r}{suggestion(names[-1], allowed)}{more}",
            where=place,
            remedy=f"Allowed: {', '.join(allowed)}",
        )
    if first["type"] == "missing":
        return UserError(f"key {'.'.join(names)!r} is missing{more}", where=place)
    got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    return UserError(f"{'.'.join(names)}: {first['msg']}{got}{more}", where=place)


def _key(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """A key as a user writes it, of a place as pydantic names it, and the fields that are allowed there.

    Where one of several models is chosen by a field of theirs, pydantic's place holds the choice, too.
    """
    names: list[str] = []
    choices: dict[str, type[BaseModel]] = {}
    allowed: list[str] = []
    for part in (str(item) for item in loc):
        if part in choices:
            model, choices = choices[part], {}
            continue
        names.append(part)
        allowed = sorted(model.model_fields)
        field = model.model_fields.get(part)
        inner = _nested_models(field.annotation) if field else []
        if field and isinstance(field.discriminator, str):
            kinds = [(get_args(item.model_fields[field.discriminator].annotation)[0], item) for item in inner]
            choices = dict(kinds)
        elif inner:
            model = inner[0]
    return tuple(names), allowed


def _nested_models(annotation: Any) -> list[type[BaseModel]]:
    candidates = [annotation, *get_args(annotation)]
    return [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
