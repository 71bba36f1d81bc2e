"""Is an artifact what a run would make? And if not, what changed?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from weaksam_cli.artifacts.receipt import Identity, Receipt, read_receipt
from weaksam_cli.artifacts.shards import shards_root


class State(Enum):
    """How an artifact stands to the work that would make it."""

    FRESH = "fresh"
    STALE = "stale"
    PARTIAL = "partial"
    MISSING = "missing"


@dataclass(frozen=True)
class Freshness:
    """State of an artifact, with the reasons why it is stale.

    Attributes:
        state: fresh, stale, partial (some shards or a checkpoint are there) or missing.
        reasons: what changed since it was made, in words.
        recipe_changed: True when the recipe or the seed differs: to replace such an artifact is the user's decision.
        receipt: the receipt, where there is one.
    """

    state: State
    reasons: tuple[str, ...] = ()
    recipe_changed: bool = False
    receipt: Receipt | None = None


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as `a.b` -> value."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(flatten(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat


def recipe_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each key of the recipe that differs."""
    before, after = flatten(old), flatten(new)
    names = sorted({name for name in (*before, *after) if before.get(name) != after.get(name)})
    return [f"recipe {name}: {before.get(name)!r} -> {after.get(name)!r}" for name in names]


def _other_changes(old: Identity, new: Identity) -> list[str]:
    changes = []
    if old.stage_version != new.stage_version:
        changes.append(f"the stage's version: {old.stage_version} -> {new.stage_version}")
    if (old.format, old.format_version) != (new.format, new.format_version):
        changes.append(f"format: {old.format} {old.format_version} -> {new.format} {new.format_version}")
    if old.split != new.split:
        changes.append(f"split: {old.split} -> {new.split}")
    for name in sorted({*old.inputs, *new.inputs}):
        before, after = old.inputs.get(name), new.inputs.get(name)
        if before is None or after is None:
            changes.append(f"input {name} was {'added' if before is None else 'dropped'}")
        elif before.sha256 != after.sha256:
            changes.append(f"input {after.path} changed")
    return changes


def assess(artifact: Path, wanted: Identity) -> Freshness:
    """Compare the artifact on the disk with the identity of the work.

    Raises:
        UserError: when its receipt is damaged or of a newer program.
    """
    receipt = read_receipt(artifact)
    if receipt is None or not artifact.is_file():
        begun = shards_root(artifact).is_dir() or artifact.is_file()
        return Freshness(State.PARTIAL if begun else State.MISSING)
    if receipt.key == wanted.key() and artifact.stat().st_size == receipt.size:
        return Freshness(State.FRESH, receipt=receipt)
    recipe = recipe_changes(receipt.identity.recipe, wanted.recipe)
    if receipt.identity.seed != wanted.seed:
        recipe.append(f"seed: {receipt.identity.seed} -> {wanted.seed}")
    others = _other_changes(receipt.identity, wanted)
    reasons = (*recipe, *others) or ("the file does not have the size in its receipt",)
    return Freshness(State.STALE, reasons, bool(recipe), receipt)
