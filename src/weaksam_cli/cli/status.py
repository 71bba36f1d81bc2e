"""`weaksam status`: what of a run is fresh, stale, partial or missing."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts.receipt import RECEIPT_SUFFIX, Receipt, read_receipt
from weaksam_cli.artifacts.shards import shards_root
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, duration
from weaksam_cli.engine.freshness import State
from weaksam_cli.engine.runs import FOLDERS, SPLIT_ARTIFACTS
from weaksam_cli.engine.steps import Context
from weaksam_cli.errors import UserError


def show_status(options: CommonOptions, console: Console) -> None:
    """Print a row for every artifact of the run, in the order of the pipeline."""
    context = build_context(options, None, console)
    root = context.run.root
    if not root.is_dir():
        raise UserError(
            "there is no such run",
            where=str(root),
            remedy="Start one: weaksam all (or `weaksam data SOURCE`)",
        )
    rows = [_row(context, path) for path in _artifacts(context)]
    console.table(f"{root}", ["artifact", "state", "images", "failed", "time", "why"], rows)


def _artifacts(context: Context) -> list[Path]:
    root = context.run.root
    order = {folder: index for index, folder in enumerate(FOLDERS.values())}
    found = {
        path.with_name(path.name.removesuffix(RECEIPT_SUFFIX)) for path in root.rglob(f"*{RECEIPT_SUFFIX}")
    }
    found |= {path.with_name(path.name.removesuffix(".shards")) for path in root.rglob("*.shards")}
    splits = context.source().splits
    for stage, pattern in SPLIT_ARTIFACTS.items():
        for split, role in splits.items():
            if stage != "pgt" or role == "train":
                found.add(root / pattern.format(split=split))

    def place(path: Path) -> tuple[int, str]:
        top = path.relative_to(root).parts[0].partition("@")[0]
        return order.get(top, len(order)), str(path)

    return sorted(found, key=place)


def _row(context: Context, path: Path) -> list[str]:
    name = path.relative_to(context.run.root).as_posix()
    try:
        record = read_receipt(path)
    except UserError as error:
        return [name, "damaged", "", "", "", error.what]
    if record is None or not path.is_file():
        begun = shards_root(path).is_dir() or path.is_file()
        return [name, (State.PARTIAL if begun else State.MISSING).value, "", "", "", ""]
    reasons = stale_inputs(context, record)
    if path.stat().st_size != record.size:
        reasons.append("the file was changed")
    state = State.STALE if reasons else State.FRESH
    failed = str(len(record.failed) or "")
    return [name, state.value, str(record.images), failed, duration(record.wall_seconds), "; ".join(reasons)]


def stale_inputs(context: Context, record: Receipt) -> list[str]:
    """Inputs of an artifact that are no longer what it was made from."""
    reasons = []
    for name, item in record.identity.inputs.items():
        if name == "source":
            continue
        current = read_receipt(context.run.root / item.path)
        if current is None:
            reasons.append(f"input {item.path} is missing")
        elif current.sha256 != item.sha256:
            reasons.append(f"input {item.path} changed")
    return reasons
