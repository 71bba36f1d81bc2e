"""Which artifacts a run has, and which the pipeline would make."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts.receipt import RECEIPT_SUFFIX
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage


def run_artifacts(context: Context) -> list[Path]:
    """Every artifact that is there or begun, and those that the pipeline would make, in its order."""
    root, stages = context.run.root, [load_stage(name) for name in STAGE_NAMES]
    found = {
        path.with_name(path.name.removesuffix(RECEIPT_SUFFIX)) for path in root.rglob(f"*{RECEIPT_SUFFIX}")
    }
    found |= {path.with_name(path.name.removesuffix(".shards")) for path in root.rglob("*.shards")}
    for stage in stages[:-1]:
        for split, source in context.source().splits.items():
            if source.role == "train" or not stage.train_only:
                found.add(context.run.output(stage.name, split))
    order = [stage.folder for stage in stages]

    def place(path: Path) -> tuple[int, str]:
        top = path.relative_to(root).parts[0].partition("@")[0]
        return order.index(top) if top in order else len(order), str(path)

    return sorted(found, key=place)
