"""`weaksam compare`: runs, or variants of one run, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, duration
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.stages import STAGE_NAMES
from weaksam_cli.errors import UserError, unknown
from weaksam_cli.eval.report import gain, named
from weaksam_cli.report.compare import Side, read_side, side_by_side, unlike_tests

_PLAIN = "plain"
_WIDEST = 40
"""Characters of a value in the table; JSON readers get all of it."""


def compare(options: CommonOptions, console: Console, runs: list[Path] | None, variants: str | None) -> None:
    """Print four tables: settings that differ, inputs, figures, times.

    Raises:
        UserError: not two runs or variants at least, or one that is not there.
    """
    sides = [read_side(name, run) for name, run in _chosen(options, console, runs or [], variants)]
    names = [side.name for side in sides]
    settings = side_by_side([side.settings for side in sides], differing=True)
    rows = [[name, *map(_short, row)] for name, row in settings.items()]
    console.table("settings that differ", ["setting", *names], rows or [["none", *[""] * len(names)]])
    inputs = side_by_side([side.inputs for side in sides])
    rows = [[name, *(item[:12] if item else "-" for item in row)] for name, row in inputs.items()]
    console.table("made from (digests)", ["what", *names], rows)
    _print_figures(sides, console)
    seconds = side_by_side([side.seconds for side in sides])
    rows = [
        [name, *("-" if item is None else duration(item) for item in row)] for name, row in seconds.items()
    ]
    console.table("time", ["stage", *names], rows)
    for side in sides:
        for line in side.problems:
            console.warn(line)
    unlike = unlike_tests(sides)
    verdict = f"the same in all: {', '.join(sorted(set().union(*(side.tests for side in sides))))}"
    if unlike:
        verdict = f"NOT comparable: these differ: {', '.join(unlike)}"
    elif not any(side.tests for side in sides):
        verdict = "there is no test split: the figures are of images that were learnt from"
    console.result(
        "",
        verdict,
        runs=[_as_json(side) for side in sides],
        differing_settings=list(settings),
        comparable=not unlike,
        verdict=verdict,
    )


def _chosen(
    options: CommonOptions, console: Console, runs: Sequence[Path], variants: str | None
) -> list[tuple[str, RunDirectory]]:
    if variants is None:
        if len(runs) < 2:
            remedy = "Give folders of runs, or --run-dir RUN --variants A,B"
            raise UserError(
                f"expected two runs or more, got {len(runs)}", where="weaksam compare", remedy=remedy
            )
        return [(str(path), RunDirectory(path)) for path in runs]
    if runs:
        remedy = "Name the run with --run-dir, or leave --variants out"
        raise UserError("expected runs or --variants, and not both", where="weaksam compare", remedy=remedy)
    run, names = build_context(options, None, console).run, variants.split(",")
    there = sorted({name or _PLAIN for stage in STAGE_NAMES for name in run.variants_of(stage)})
    for name in names:
        if name not in there:
            raise unknown(f"{run.root} has no variant {name!r}", name, there, where="--variants")
    if len(names) < 2:
        raise UserError(
            "expected two variants or more", where="--variants", remedy=f"Allowed: {', '.join(there)}"
        )
    return [(name, run if name == _PLAIN else run.read_as(name)) for name in names]


def _print_figures(sides: Sequence[Side], console: Console) -> None:
    rows = []
    for (split, stage, metric), found in side_by_side([side.figures for side in sides]).items():
        cells = []
        for row in found:
            change = None if row is found[0] else gain(row, found[0])
            cells.append(("-" if row is None else row.text) + ("" if change is None else f" ({change:+.1f})"))
        rows.append([split, stage, *named(metric), *cells])
    header = ["split", "artifact", "metric", "protocol", *(side.name for side in sides)]
    console.table("figures", header, rows)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _as_json(side: Side) -> dict[str, Any]:
    figures = [
        {"split": split, **row.model_dump(exclude={"classes"})} for (split, _, _), row in side.figures.items()
    ]
    return {
        "name": side.name,
        "settings": dict(side.settings),
        "inputs": dict(side.inputs),
        "figures": figures,
        "seconds": dict(side.seconds),
        "problems": list(side.problems),
    }
