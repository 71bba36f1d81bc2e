"""Which artifacts a run has, and which the pipeline would make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from weaksam_cli.artifacts.receipt import RECEIPT_SUFFIX
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage

_WORKPLACES = (".shards", ".slurm")
"""Ends of the names of folders beside an artifact that hold unfinished work, a hundred thousand files perhaps."""


def _there(root: Path) -> Iterator[Path]:
    """Artifacts that have a receipt or shards."""
    for folder, names, files in os.walk(root):
        yield from (
            Path(folder, name[: -len(RECEIPT_SUFFIX)]) for name in files if name.endswith(RECEIPT_SUFFIX)
        )
        yield from (Path(folder, name.removesuffix(".shards")) for name in names if name.endswith(".shards"))
        names[:] = [name for name in names if not name.endswith(_WORKPLACES)]


def run_artifacts(context: Context) -> list[Path]:
    """Every artifact that is there or begun, and those that the pipeline would make, in its order."""
    root, stages = context.run.root, [load_stage(name) for name in STAGE_NAMES]
    found = set(_there(root))
    for stage in stages[:-1]:
        for split, source in context.source().splits.items():
            if source.role == "train" or not stage.train_only:
                found.add(context.run.output(stage.name, split))
    order = [stage.folder for stage in stages]

    def place(path: Path) -> tuple[int, str]:
        top = path.relative_to(root).parts[0].partition("@")[0]
        return order.index(top) if top in order else len(order), str(path)

    return sorted(found, key=place)
