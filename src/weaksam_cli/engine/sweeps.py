"""Sweeps: all combinations of some values of a stage's settings, with every seed; each is a variant of the run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import yaml

from weaksam_cli.artifacts.digest import of_json
from weaksam_cli.core.names import first_twice, plain_word
from weaksam_cli.core.settings import UNREADABLE, Loader
from weaksam_cli.engine.freshness import flatten
from weaksam_cli.engine.recipes import LoadedRecipe, load_recipe
from weaksam_cli.errors import UserError

Grid = Mapping[str, Sequence[Any]]
"""Key of a recipe -> values, in the order in which they were given."""
_GRID, _SEEDS, _SET = "--grid", "--seeds", "--set"
_LONGEST_VALUE: Final = 24
_LONGEST_NAME: Final = 90
_DIGITS: Final = 6
"""Of a digest, where a value is no plain word."""


@dataclass(frozen=True)
class Point:
    """One variant of a sweep.

    Attributes:
        settings: key -> value, as the recipe has them.
        seed: of the stages that are swept.
        recipe: of the first of these stages.
        variant: its name, which settings and seed decide.
    """

    settings: Mapping[str, Any]
    seed: int
    recipe: LoadedRecipe
    variant: str

    def in_words(self) -> str:
        """`roi_drop.tau_reg=0.8, seed 0`."""
        return ", ".join(
            [*(f"{key}={value_text(value)}" for key, value in self.settings.items()), f"seed {self.seed}"]
        )


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`key=value,value` of each `--grid`; values in YAML, so one may be a list: `short_sides=[256],[256,320]`.

    Raises:
        UserError: another form, no value, a value or a key that stands twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, _, raw = (part.strip() for part in text.partition("="))
        where = f"{_GRID} {text[:200]}"
        if not key or not raw:
            raise UserError(f"expected key=value,value, got {text[:200]!r}", where=_GRID)
        if key in grid:
            raise UserError(
                f"the key {key!r} stands twice", where=where, remedy="Give all its values in one --grid"
            )
        try:
            grid[key] = yaml.load(f"[{raw}]", Loader=Loader)
        except UNREADABLE as error:
            raise UserError(f"the values of {key!r} are not readable as YAML", where=where) from error
    return grid


def parse_seeds(text: str | None, default: int) -> list[int]:
    """The seeds of `0,1,2`; the default where none are given.

    Raises:
        UserError: no numbers from 0 on, or one of them twice.
    """
    if text is None:
        return [default]
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        raise UserError(
            f"expected whole numbers of 0 or more, such as 0,1,2, got {text[:200]!r}", where=_SEEDS
        )
    seeds = [int(word) for word in words]
    if (twice := first_twice(seeds)) is not None:
        raise UserError(f"{twice} stands twice", where=_SEEDS)
    return seeds


def sweep_points(
    stage: str, name: str, overrides: Sequence[str], grid: Grid, seeds: Sequence[int], prefix: str = ""
) -> list[Point]:
    """Every combination of the grid with every seed, all settings of the first seed first.

    Args:
        stage: whose recipe is swept.
        name: of the recipe.
        overrides: `key=value`, changes that all share.
        grid: the values; without any, the recipe itself.
        seeds: at least one.
        prefix: of the variants' names.

    Raises:
        UserError: a key or value that the recipe does not have, or two values that are the same there.
    """
    keys = list(flatten(load_recipe(stage, name, overrides).resolved()))
    recipes = []
    for values in itertools.product(*grid.values()):
        changes = [f"{key}={json.dumps(value)}" for key, value in zip(grid, values, strict=True)]
        loaded = _loaded(stage, name, overrides, changes)
        recipes.append((loaded, {key: _value_at(loaded, key) for key in grid}))
    _refuse_equal([settings for _, settings in recipes])
    return [
        Point(settings, seed, loaded, variant_name(settings, seed, keys, prefix))
        for seed in seeds
        for loaded, settings in recipes
    ]


def _loaded(stage: str, name: str, overrides: Sequence[str], changes: Sequence[str]) -> LoadedRecipe:
    """The recipe with the changes of a grid; what is wrong with them is said of the grid."""
    try:
        return load_recipe(stage, name, [*overrides, *changes])
    except UserError as error:
        where = error.where or ""
        if where.startswith(_SET) and where not in {f"{_SET} {text}" for text in overrides}:
            where = _GRID + where.removeprefix(_SET)
        raise UserError(error.what, where=where, remedy=error.remedy) from None


def _value_at(loaded: LoadedRecipe, key: str) -> Any:
    return reduce(lambda values, name: values[name], key.split("."), loaded.resolved())


def _refuse_equal(settings: Sequence[Mapping[str, Any]]) -> None:
    if (twice := first_twice(json.dumps(item, sort_keys=True) for item in settings)) is not None:
        what = ", ".join(f"{key}={value_text(value)}" for key, value in json.loads(twice).items())
        raise UserError(f"{what} stands twice", where=_GRID)


def variant_name(settings: Mapping[str, Any], seed: int, keys: Iterable[str], prefix: str = "") -> str:
    """The name of a variant, such as `tau_cls-4_tau_reg-0.8_s0`: the same for the same settings in any sweep.

    Args:
        settings: key -> value, as the recipe has them.
        seed: of the variant.
        keys: all keys of the recipe: each is called by as much of its end as tells it from the others.
        prefix: stands first.
    """
    known = [*keys]
    words = [f"{short_key(key, known)}-{value_text(value)}" for key, value in sorted(settings.items())]
    name = "_".join([*([prefix] if prefix else []), *words])
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - _DIGITS - 1]}-{of_json([prefix, dict(settings)])[:_DIGITS]}"
    return plain_word(f"{name}_s{seed}".lstrip("_-."), "variant", where=_GRID)


def short_key(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a dotted key that no other key ends with."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if not any(other != key and (other == end or other.endswith(f".{end}")) for other in keys):
            return end
    return key


def value_text(value: Any) -> str:
    """A value as it stands in names and tables: a plain word, with a digest where it is none or long."""
    text = _written(value)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    if plain == text and 0 < len(text) <= _LONGEST_VALUE:
        return text
    return f"{plain[: _LONGEST_VALUE - _DIGITS - 1].strip('-.')}-{of_json([value])[:_DIGITS]}".lstrip("-")


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "-".join(map(_written, value))
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return json.dumps(value, sort_keys=True)
