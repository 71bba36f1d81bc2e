"""Recipes: YAML files parsed into one frozen, typed object a stage, and refused in words when they do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from weaksam_cli.errors import UserError


class RecipeModel(BaseModel):
    """Base of all recipe types: frozen, and a key that nothing reads is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


R = TypeVar("R", bound=RecipeModel)


@dataclass(frozen=True)
class LoadedRecipe(Generic[R]):
    """A validated recipe and where it came from."""

    name: str
    path: Path
    recipe: R

    def resolved(self) -> dict[str, Any]:
        """Every field with its value, defaults included, as plain JSON values."""
        return self.recipe.model_dump(mode="json")


def what_decides(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe of a training without what its result does not depend on: how often checkpoints are written."""
    schedule = {name: value for name, value in resolved["schedule"].items() if name != "checkpoint_period"}
    return {**resolved, "schedule": schedule}


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


def suggestion(word: str, allowed: Sequence[str]) -> str:
    """`, did you mean 'x'?` for the nearest allowed word, or nothing."""
    near = difflib.get_close_matches(word, allowed, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def load_recipe(
    stage: str, name: str, types: Mapping[str, type[R]], overrides: Sequence[str] = ()
) -> LoadedRecipe[R]:
    """Read, change and validate a recipe.

    Args:
        stage: the stage that it is for.
        name: recipe name, or the path of a YAML file.
        types: method name -> recipe type; the recipe's `method` chooses.
        overrides: `key=value` strings (`--set`), dotted keys for nested values, values in YAML.

    Raises:
        UserError: unknown key, bad value, missing `method`: names the line, what was given and what is allowed.
    """
    path = find_recipe(stage, name)
    values, lines = _read(path)
    for text in overrides:
        _override(values, lines, text)
    method = str(values.get("method"))
    if method not in types:
        raise UserError(
            f"method {method!r} is not one of {stage}'s{suggestion(method, list(types))}",
            where=_place(path, lines, ("method",)),
            remedy=f"Allowed: {', '.join(sorted(types))}",
        )
    try:
        recipe = types[method].model_validate(values)
    except ValidationError as error:
        raise _explain(path, lines, types[method], error) from error
    return LoadedRecipe(path.stem, path, recipe)


_Lines = dict[tuple[str, ...], str]


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, with safe tags only.

    Raises:
        UserError: when it is not readable YAML or not a mapping.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], _Lines]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
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
        raise UserError(f"expected key=value, met {text!r}", where="--set")
    names = tuple(key.strip().split("."))
    target = values
    for name in names[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"{name!r} of {key!r} is a value, not a group of keys", where="--set")
    try:
        target[names[-1]] = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {key!r} is not readable as YAML: {raw!r}", where="--set") from error
    lines[names] = f"--set {text}"


def _place(path: Path, lines: _Lines, names: tuple[str, ...]) -> str:
    for length in range(len(names), 0, -1):
        if names[:length] in lines:
            return lines[names[:length]]
    return str(path)


def _explain(path: Path, lines: _Lines, model: type[BaseModel], error: ValidationError) -> UserError:
    first = error.errors()[0]
    names = tuple(str(part) for part in first["loc"])
    place = _place(path, lines, names)
    more = f" ({error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = _fields(model, names[:-1])
        return UserError(
            f"unknown key {'.'.join(names)!r}{suggestion(names[-1], allowed)}{more}",
            where=place,
            remedy=f"Allowed: {', '.join(allowed)}",
        )
    if first["type"] == "missing":
        return UserError(f"key {'.'.join(names)!r} is missing{more}", where=place)
    return UserError(f"{'.'.join(names)}: {first['msg']}, met {first['input']!r}{more}", where=place)


def _fields(model: type[BaseModel], names: tuple[str, ...]) -> list[str]:
    for name in names:
        field = model.model_fields.get(name)
        inner = _nested_model(field.annotation) if field else None
        if inner is None:
            break
        model = inner
    return sorted(model.model_fields)


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
