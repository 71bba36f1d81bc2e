"""For stages that are not methods yet; goes with the last of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ConfigDict

from weaksam_cli.artifacts.receipt import InputDigest, Receipt
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.engine import steps as steps_module
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import Standing
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.sharded import SHARD_IMAGES, PerImage
from weaksam_cli.engine.steps import Step, Summary, make
from weaksam_cli.errors import UserError, suggestion

MergeCount = Outcome
ShardedMaker = PerImage
Maker = Callable[[Job], Outcome]
WEIGHTS_INPUT = "weights"
__all__ = ["SHARD_IMAGES", "Context", "Job", "Maker", "MergeCount", "Product", "ShardedMaker"]


class _AnySettings(RecipeModel):
    model_config = ConfigDict(frozen=True, extra="allow")


@dataclass(frozen=True)
class Product:
    """The old step."""

    path: Path
    format_name: str
    format_version: int
    split: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, Path]
    make: Maker
    what: str
    digests: Mapping[str, InputDigest] = field(default_factory=dict)
    summary: Summary | None = None

    def step(self) -> Step:
        """As a step."""
        return Step(
            self.path,
            Schema(self.format_name, self.format_version, ()),
            self.split,
            _AnySettings(**self.recipe),
            self.inputs,
            self.make,
            self.what,
            self.digests,
            self.summary,
        )


def legacy_method(stage: Any, name: str, where: str) -> Any:
    """A method of a stage with `recipe_types` and `products`."""
    types = stage.recipe_types
    if name not in types:
        raise UserError(
            f"method {name!r} is not one of {stage.name}'s{suggestion(name, list(types))}",
            where=where,
            remedy=f"Allowed: {', '.join(sorted(types))}",
        )

    def steps(recipe: Any, context: Context, split: str) -> Iterator[Step]:
        return (product.step() for product in stage.products(recipe, context, split))

    return SimpleNamespace(Recipe=types[name], steps=steps)


def what_decides(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe of a training without how often checkpoints are written."""
    schedule = {name: value for name, value in resolved["schedule"].items() if name != "checkpoint_period"}
    return {**resolved, "schedule": schedule}


def make_product(product: Product, stage: Any, context: Context) -> Receipt:
    """See `steps.make`."""
    return make(product.step(), stage, context)


def preview(product: Product, stage: Any, context: Context) -> Standing | UserError:
    """See `steps.preview`."""
    return steps_module.preview(product.step(), stage, context)
