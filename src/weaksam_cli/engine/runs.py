"""Where the artifacts of a run lie: `runs/<dataset>/<folder>[@variant]/...`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

FOLDERS = {
    "data": "labels",
    "cam": "cam",
    "prompt": "prompts",
    "propose": "proposals",
    "wsod": "wsod",
    "pgt": "pgt",
    "retrain": "retrain",
    "eval": "eval",
}
"""Stage -> folder under the run directory."""

SPLIT_ARTIFACTS = {
    "data": "labels/{split}.json",
    "cam": "cam/{split}.h5",
    "prompt": "prompts/{split}.h5",
    "propose": "proposals/{split}.h5",
    "wsod": "wsod/detections/{split}.json",
    "pgt": "pgt/{split}.json",
    "retrain": "retrain/detections/{split}.json",
}
"""Stage -> the artifact that it makes for each split, and that later stages read."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        root: the folder, e.g. `runs/voc07`.
        variants: stage -> variant, for stages whose output goes to `<folder>@<variant>`.
        given: stage -> file, for inputs that the user named with `--input stage=FILE`.
        given_split: the split that these files are of; for other splits the run's own artifacts are read.
    """

    root: Path
    variants: dict[str, str] = field(default_factory=dict)
    given: dict[str, Path] = field(default_factory=dict)
    given_split: str | None = None

    def folder(self, stage: str) -> Path:
        """The folder that a stage writes to."""
        variant = self.variants.get(stage)
        name = FOLDERS[stage]
        return self.root / (f"{name}@{variant}" if variant else name)

    def output(self, stage: str, split: str) -> Path:
        """The artifact that a stage writes for a split."""
        below = SPLIT_ARTIFACTS[stage].format(split=split).partition("/")[2]
        return self.folder(stage) / below

    def input(self, stage: str, split: str) -> Path:
        """The artifact of an earlier stage that is read: the one given with `--input`, else its place in the run."""
        return self.given_for(split).get(stage) or self.output(stage, split)

    def given_for(self, split: str) -> dict[str, Path]:
        """The files that the user named for a split."""
        return self.given if split == self.given_split else {}

    def relative(self, path: Path) -> str:
        """`path` as it stands in receipts: relative to the run directory where it lies in it."""
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            return path.name

    def variants_of(self, stage: str) -> list[str]:
        """Variants of a stage's output that are on the disk, the plain one ('') first."""
        name = FOLDERS[stage]
        found = [""] if (self.root / name).is_dir() else []
        return found + sorted(
            path.name.partition("@")[2] for path in self.root.glob(f"{name}@*") if path.is_dir()
        )

    def with_variant(self, stage: str, variant: str) -> RunDirectory:
        """The same run, with another variant of one stage."""
        return replace(self, variants={**self.variants, stage: variant})
