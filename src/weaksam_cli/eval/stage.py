"""`weaksam eval`: evaluate every artifact of a run; the only stage that reads ground-truth boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.freshness import Freshness, State
from weaksam_cli.engine.stages import STAGE_NAMES, Stage
from weaksam_cli.retrain.both import both_output

RESULTS = Schema("weaksam/results", 5, ())
"""Version 2 has `curves`; version 3 says `metrics` for `measures`, and counts the `ground_truth`; version 4 lists what it
leaves out, an entry an object; version 5 counts masks."""
STAGE = Stage("eval", 3, "eval", "{split}.json", RESULTS)


def artifacts_of(context: Context, split: str) -> dict[str, Path]:
    """`stage` or `stage@variant` -> complete artifact of the split, for all that are there; after `retrain` comes `both`."""
    found: dict[str, Path] = {}
    for stage in STAGE_NAMES[:-1]:
        given = context.run.given_for(split).get(stage)
        if given is not None:
            found[stage] = given
            continue
        for variant in context.run.variants_of(stage):
            run = context.run.with_variant(stage, variant)
            paths = {stage: run.output(stage, split)}
            if stage == "retrain":
                paths["both"] = both_output(run, split)
            for name, path in paths.items():
                if path.is_file() and receipts.read_receipt(path) is not None:
                    found[f"{name}@{variant}" if variant else name] = path
    return found


def stale_variants(context: Context, artifacts: Mapping[str, Path]) -> dict[str, str]:
    """`stage@variant` -> why it is stale, of the artifacts of variants; what a plain stage makes is not asked for here."""
    look, found = Freshness(context.run.root), {}
    for name, path in artifacts.items():
        if "@" in name:
            standing = look.of(path)
            if standing.state is State.STALE:
                found[name] = standing.reasons[0]
    return found
