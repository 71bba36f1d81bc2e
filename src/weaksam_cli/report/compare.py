"""Runs side by side: what was set otherwise, what they were made from, how good they are and how long they took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from weaksam_cli.artifacts.digest import of_json
from weaksam_cli.artifacts.receipt import RECEIPT_SUFFIX, Receipt, read_receipt
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.engine.freshness import Freshness, State, flatten
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.stages import STAGE_NAMES
from weaksam_cli.eval.results import MetricRow, read_results

T = TypeVar("T")
Figure = tuple[str, str, str]
"""Split, stage and name of a metric."""


@dataclass(frozen=True)
class Side:
    """One of the runs, or one variant of a run.

    Attributes:
        name: as it was given.
        settings: `stage.key` -> value of every recipe that was used; `stage.recipe` and `stage.seed` beside them.
        inputs: what a split is made of -> digest, the same wherever the run lies and whatever its dataset is called.
        tests: those of the inputs that figures of unseen images rest on.
        figures: as `eval` wrote them, those of this variant.
        seconds: stage -> how long its artifacts took, shared ones included.
        problems: what is missing or old, a line each.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    tests: frozenset[str]
    figures: Mapping[Figure, MetricRow]
    seconds: Mapping[str, float]
    problems: tuple[str, ...]


def read_side(name: str, run: RunDirectory) -> Side:
    """What is to be said of a run.

    Args:
        name: how it is called.
        run: as the variant reads it, see `RunDirectory.read_as`.

    Raises:
        UserError: there is no run, or what it holds is damaged.
    """
    settings: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for stage in STAGE_NAMES:
        for receipt in _receipts(run, stage):
            identity = receipt.identity
            own = {"recipe": identity.recipe_name, "seed": identity.seed, **flatten(identity.recipe)}
            settings |= {f"{stage}.{key}": value for key, value in own.items() if key}
            seconds[stage] = seconds.get(stage, 0.0) + receipt.wall_seconds
    inputs: dict[str, str] = {}
    figures: dict[Figure, MetricRow] = {}
    problems: list[str] = []
    tests = set()
    for split, source in read_source(run.root).splits.items():
        found = _inputs(run, split)
        inputs |= found
        if source.role != "train":
            tests |= set(found)
        figures |= {(split, row.stage, row.name): row for row in _figures(run, split, problems)}
    marked = tuple(f"{name}: {text}" for text in problems)
    return Side(name, settings, inputs, frozenset(tests), figures, seconds, marked)


def _receipts(run: RunDirectory, stage: str) -> Iterator[Receipt]:
    for path in sorted(run.folder(stage).rglob(f"*{RECEIPT_SUFFIX}")):
        receipt = read_receipt(path.with_name(path.name.removesuffix(RECEIPT_SUFFIX)))
        if receipt is not None:
            yield receipt


def _inputs(run: RunDirectory, split: str) -> dict[str, str]:
    file = read_labels(run.output("data", split), run.root).file
    images = [image.model_dump(exclude={"id"}) for image in file.images]
    found = {f"{split}: images and labels": of_json([images, [item.name for item in file.categories]])}
    evaluated = read_receipt(run.output("eval", split))
    truth = evaluated.identity.inputs.get("source") if evaluated else None
    return found | ({f"{split}: true boxes": truth.sha256} if truth else {})


def _figures(run: RunDirectory, split: str, problems: list[str]) -> list[MetricRow]:
    """The metrics of this variant's artifacts; what lacks is noted."""
    path, again = run.output("eval", split), f"weaksam eval --run-dir {run.root}"
    if not path.is_file():
        problems.append(f"{split} has not been evaluated: {again}")
        return []
    standing = Freshness(run.root).of(path)
    if standing.state is not State.FRESH:
        why = standing.reasons[0] if standing.reasons else standing.state.value
        problems.append(f"the figures of {split} are not up to date ({why}): {again}")
    rows = read_results(path).metrics
    known = {row.source for row in rows}
    for stage, variant in run.variants.items():
        if stage in {row.stage for row in rows} and f"{stage}@{variant}" not in known:
            problems.append(f"{split} has no figures of {stage}@{variant}: {again}")
    return [row for row in rows if row.variant == run.variants.get(row.stage, "")]


def side_by_side(parts: Sequence[Mapping[Any, T]], *, differing: bool = False) -> dict[Any, list[T | None]]:
    """Name -> its value in each part, in the order of the first that has it; None where a part lacks it.

    Args:
        parts: at least one.
        differing: only names whose values are not all equal.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    rows = {name: [part.get(name) for part in parts] for name in names}
    return {name: row for name, row in rows.items() if not differing or any(item != row[0] for item in row)}


def unlike_tests(sides: Sequence[Side]) -> list[str]:
    """The inputs of test splits that are not the same in all runs, so that figures on them cannot be compared."""
    rows = side_by_side([{name: side.inputs[name] for name in side.tests} for side in sides], differing=True)
    return sorted(rows)
