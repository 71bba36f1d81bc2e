"""Where the artifacts of a run lie: `runs/<dataset>/<folder>[@variant]/...`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from weaksam_cli.engine.stages import STAGE_NAMES, load_stage

BOXES_INPUT: Final = "boxes"
"""Of no stage: boxes that the user gives as prompts for masks, with `--input boxes=FILE`."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        root: the folder, e.g. `runs/voc07`.
        variants: stage -> variant, for stages whose output goes to `<folder>@<variant>`.
        given: stage -> file, for inputs that the user named with `--input stage=FILE`; or `BOXES_INPUT`.
        given_split: the split that these files are of; for other splits the run's own artifacts are read.
    """

    root: Path
    variants: dict[str, str] = field(default_factory=dict)
    given: dict[str, Path] = field(default_factory=dict)
    given_split: str | None = None

    def folder(self, stage: str) -> Path:
        """The folder that a stage writes to."""
        variant = self.variants.get(stage)
        name = load_stage(stage).folder
        return self.root / (f"{name}@{variant}" if variant else name)

    def output(self, stage: str, split: str) -> Path:
        """The artifact that a stage writes for a split."""
        return self.folder(stage) / load_stage(stage).artifact.format(split=split)

    def input(self, stage: str, split: str) -> Path:
        """The artifact of an earlier stage that is read: the one given with `--input`, else its place in the run."""
        return self.given_for(split).get(stage) or self.output(stage, split)

    def given_for(self, split: str) -> dict[str, Path]:
        """The files that the user named for a split."""
        return self.given if split == self.given_split else {}

    def relative(self, path: Path) -> str:
        """`path` as it stands in receipts and messages: relative to the run directory where it lies in it, else absolute."""
        # Not `Path.resolve`, which refuses a link to itself.
        place, root = (Path(os.path.realpath(item)) for item in (path, self.root))
        return (place.relative_to(root) if place.is_relative_to(root) else place).as_posix()

    def resolve(self, recorded: str) -> Path:
        """The file that a receipt of this run names; the inverse of `relative`."""
        return self.root / recorded

    def variants_of(self, stage: str) -> list[str]:
        """Variants of a stage's output that are on the disk, the plain one ('') first."""
        name = load_stage(stage).folder
        found = [""] if (self.root / name).is_dir() else []
        return found + sorted(
            path.name.partition("@")[2] for path in self.root.glob(f"{name}@*") if path.is_dir()
        )

    def with_variant(self, stage: str, variant: str) -> RunDirectory:
        """The same run, with another variant of one stage."""
        return replace(self, variants={**self.variants, stage: variant})

    def read_as(self, variant: str) -> RunDirectory:
        """The same run as a variant reads it: its own artifacts of every stage that has them, else the plain ones."""
        own = {stage: variant for stage in STAGE_NAMES if variant in self.variants_of(stage)}
        return replace(self, variants=self.variants | own)
