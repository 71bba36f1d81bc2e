"""Is an artifact what a run would make now? And if not, what changed?

One rule, which the stages, `status`, `--dry-run` and make use: an artifact is fresh when its identity is the one that it
would get now, and every artifact that it was made from is fresh itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import Identity, InputDigest, Receipt, read_receipt
from weaksam_cli.artifacts.shards import shards_root
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage


class State(Enum):
    """How an artifact stands to the step that would make it."""

    FRESH = "fresh"
    STALE = "stale"
    PARTIAL = "partial"
    MISSING = "missing"


@dataclass(frozen=True)
class Standing:
    """How an artifact stands, with the reasons why it is stale.

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


def file_digest(path: Path, place: str, recorded: InputDigest | None = None) -> InputDigest:
    """The digest of a file without a receipt, such as published weights.

    A file that has the size and the time of the last look is not read again: weights may have gigabytes.

    Args:
        path: the file.
        place: how it is named in receipts.
        recorded: what was found at the last look.
    """
    stat = path.stat()
    if recorded and (recorded.path, recorded.size, recorded.mtime_ns) == (
        place,
        stat.st_size,
        stat.st_mtime_ns,
    ):
        return recorded
    return InputDigest(path=place, sha256=digest.of_file(path), size=stat.st_size, mtime_ns=stat.st_mtime_ns)


class Freshness:
    """Looks at the artifacts of one run; each is looked at once.

    Args:
        root: the run directory, which paths in receipts are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, Standing] = {}

    def of(self, artifact: Path, wanted: Identity | None = None) -> Standing:
        """How an artifact stands.

        Args:
            artifact: the file.
            wanted: the identity of the work that would make it; None for its own settings with what stands in the run now.

        Raises:
            UserError: when its receipt is damaged or of a newer program.
        """
        if wanted is not None:
            return self._compare(artifact, wanted)
        if artifact not in self._known:
            # An artifact that were made from itself would be looked at for ever.
            self._known[artifact] = Standing(State.MISSING)
            self._known[artifact] = self._compare(artifact, None)
        return self._known[artifact]

    def stale_inputs(self, identity: Identity) -> list[str]:
        """One line for each input of the work that is stale itself."""
        lines = []
        for item in identity.inputs.values():
            # The file of another run has its own folder, against which this one cannot judge it.
            if item.file and not Path(item.path).is_absolute():
                found = self.of(self._root / item.path)
                if found.state is State.STALE:
                    lines.append(f"input {item.path} is stale ({found.reasons[0]})")
        return lines

    def _compare(self, artifact: Path, wanted: Identity | None) -> Standing:
        receipt = read_receipt(artifact)
        if receipt is None or not artifact.is_file():
            begun = shards_root(artifact).is_dir() or artifact.is_file()
            return Standing(State.PARTIAL if begun else State.MISSING)
        missing: list[str] = []
        identity = receipt.identity
        if wanted is None:
            wanted, missing = self._now(identity)
        recipe = recipe_changes(identity.recipe, wanted.recipe)
        if identity.seed != wanted.seed:
            recipe.append(f"seed: {identity.seed} -> {wanted.seed}")
        others = [*missing, *_other_changes(identity, wanted), *self.stale_inputs(wanted)]
        if artifact.stat().st_size != receipt.size:
            others.append("the file does not have the size in its receipt")
        if not recipe and not others and receipt.key != wanted.key():
            others.append("its identity is not the one in its receipt")
        state = State.STALE if recipe or others else State.FRESH
        return Standing(state, (*recipe, *others), bool(recipe), receipt)

    def _now(self, identity: Identity) -> tuple[Identity, list[str]]:
        """The identity that an artifact would get now, and inputs that are no longer there."""
        inputs, missing = dict(identity.inputs), []
        for name, item in identity.inputs.items():
            path = self._root / item.path
            if not item.file:
                continue
            if not path.is_file():
                missing.append(f"input {item.path} is missing")
                continue
            receipt = read_receipt(path)
            inputs[name] = (
                file_digest(path, item.path, item)
                if receipt is None
                else item.model_copy(update={"sha256": receipt.sha256})
            )
        update: dict[str, Any] = {"inputs": inputs}
        if identity.stage in STAGE_NAMES:
            stage = load_stage(identity.stage)
            update["stage_version"] = stage.version
            if identity.format == stage.schema.name:
                update["format_version"] = stage.schema.version
        return identity.model_copy(update=update), missing
