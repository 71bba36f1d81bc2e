"""`weaksam status`: what of a run is fresh, stale, partial or missing."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts.receipt import RECEIPT_SUFFIX
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, duration
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.freshness import Freshness
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage
from weaksam_cli.errors import UserError


def show_status(options: CommonOptions, console: Console) -> None:
    """Print a row for every artifact of the run, in the order of the pipeline."""
    context = build_context(options, None, console)
    root = context.run.root
    if not root.is_dir():
        remedy = "Start one: weaksam all (or `weaksam data SOURCE`)"
        raise UserError("there is no such run", where=str(root), remedy=remedy)
    freshness = Freshness(root)
    rows = [_row(freshness, root, path) for path in _artifacts(context)]
    console.table(f"{root}", ["artifact", "state", "images", "failed", "time", "why"], rows)


def _artifacts(context: Context) -> list[Path]:
    """Every artifact that is there or begun, and those that the pipeline would make, in its order."""
    root, stages = context.run.root, [load_stage(name) for name in STAGE_NAMES]
    found = {
        path.with_name(path.name.removesuffix(RECEIPT_SUFFIX)) for path in root.rglob(f"*{RECEIPT_SUFFIX}")
    }
    found |= {path.with_name(path.name.removesuffix(".shards")) for path in root.rglob("*.shards")}
    for stage in stages[:-1]:
        for split, role in context.source().splits.items():
            if role == "train" or not stage.train_only:
                found.add(context.run.output(stage.name, split))
    order = [stage.folder for stage in stages]

    def place(path: Path) -> tuple[int, str]:
        top = path.relative_to(root).parts[0].partition("@")[0]
        return order.index(top) if top in order else len(order), str(path)

    return sorted(found, key=place)


def _row(freshness: Freshness, root: Path, path: Path) -> list[str]:
    name = path.relative_to(root).as_posix()
    try:
        found = freshness.of(path)
    except UserError as error:
        return [name, "damaged", "", "", "", error.what]
    record = found.receipt
    if record is None:
        return [name, found.state.value, "", "", "", ""]
    failed = str(len(record.failed) or "")
    seconds, why = duration(record.wall_seconds), "; ".join(found.reasons)
    return [name, found.state.value, str(record.images), failed, seconds, why]
