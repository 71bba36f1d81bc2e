"""What a command was told, and what one run of a step is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weaksam_cli import __version__
from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.computed import ComputedArtifact, Rows
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import Identity
from weaksam_cli.artifacts.shards import shards_root
from weaksam_cli.console import Console
from weaksam_cli.data.labels import Split
from weaksam_cli.data.source import Source, image_root, read_source
from weaksam_cli.data.unlabelled import UnlabelledSplit
from weaksam_cli.engine.devices import torch_device
from weaksam_cli.engine.executors.local import LocalExecutor
from weaksam_cli.engine.executors.task import Executor
from weaksam_cli.engine.processes import ALONE, Processes
from weaksam_cli.engine.queue import Part
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import WeightsFinder


@dataclass(frozen=True)
class Context:
    """What a command was told, the same for every stage.

    Attributes:
        dataset: its name.
        run: where artifacts lie.
        console: the output sink.
        ops: the seam for writing files.
        weights: finds published weights.
        recipe_name: of the recipe that runs.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: most processes.
        seed: of all randomness.
        checkpoint_every: iterations of a training between checkpoints.
        tensorboard: folder for the curves of a training; None for none.
        overwrite: make again what has another recipe, is damaged, or lists failed images.
        strict: images that failed are fatal.
        allow_stale: read artifacts that are stale themselves.
        executor: makes the shards of the steps that work image by image.
        part: the part of the shards that this command makes; None for all.
        unlabelled: the images of a command that is about no dataset, or that a trained detector is to look at.
        processes: of this command.
        computed: stage -> what computes its rows of those images, in place of a file.
    """

    dataset: str
    run: RunDirectory
    console: Console
    ops: FileOps
    weights: WeightsFinder
    recipe_name: str = ""
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    checkpoint_every: int = 200
    tensorboard: Path | None = None
    overwrite: bool = False
    strict: bool = False
    allow_stale: bool = False
    executor: Executor = field(default_factory=LocalExecutor)
    part: Part | None = None
    unlabelled: UnlabelledSplit | None = None
    processes: Processes = ALONE
    computed: Mapping[str, ComputedArtifact] = field(default_factory=dict)

    def source(self) -> Source:
        """Where the dataset's images and annotations lie, as `weaksam data` noted it."""
        return read_source(self.run.root)

    def split(self, name: str) -> Split:
        """The labels of a split with the folder of its images.

        Raises:
            UserError: that folder is gone.
        """
        if self.unlabelled is not None and name == self.unlabelled.name:
            return self.unlabelled
        source, labels = self.source().splits[name], self.run.input("data", name)
        if self.unlabelled is not None:  # whoever looks at other images does not need those of the training
            return Split(labels, self.run.root / source.image_root)
        return Split(labels, image_root(self.run.root, source))

    def rows(self, stage: str, split: str) -> Rows:
        """What a predictor reads of an earlier stage: its artifact of a split, or what computes it."""
        is_computed = self.unlabelled is not None and split == self.unlabelled.name and stage in self.computed
        return self.computed[stage] if is_computed else self.run.input(stage, split)

    def train_split(self) -> str:
        """The split that is learnt from.

        Raises:
            UserError: when the dataset has none, or several.
        """
        splits = self.source().role_names("train")
        if len(splits) != 1:
            raise UserError(
                f"expected one training split, got {len(splits)} ({', '.join(splits) or 'none'})",
                where=f"dataset {self.dataset}",
                remedy="Name the roles: weaksam data SOURCE --set 'splits={trainval: train, test: test}'",
            )
        return splits[0]

    def torch_device(self) -> str:
        """Where a network of this process lives: `cuda` where there is one and `auto` was asked for, else `cpu`."""
        return torch_device(self.device)

    def worker_device(self) -> str:
        """Where a network of the executor's workers lives, who may be on other machines."""
        return self.executor.device(self.device)


@dataclass(frozen=True)
class Job:
    """One run of a step: what it needs to write its artifact."""

    context: Context
    path: Path
    identity: Identity

    @property
    def checkpoint(self) -> Path:
        """Where a training that makes the artifact keeps its checkpoint; other settings or inputs have another place."""
        return shards_root(self.path) / self.identity.key()[:16] / "checkpoint.pt"

    def attributes(self) -> dict[str, Any]:
        """Root attributes of an HDF5 artifact."""
        identity = self.identity
        return {
            "format": identity.format,
            "format_version": identity.format_version,
            "stage": identity.stage,
            "dataset": identity.dataset,
            "split": identity.split,
            "recipe": digest.canonical_json(identity.recipe),
            "inputs": digest.canonical_json({name: item.sha256 for name, item in identity.inputs.items()}),
            "seed": identity.seed,
            "program_version": __version__,
            "complete": True,
        }
