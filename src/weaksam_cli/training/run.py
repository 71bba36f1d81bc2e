"""How a training runs, apart from what it learns: what `wsod` and `retrain` hand to `detectron.training`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.engine.steps import Job
from weaksam_cli.training.checkpoint import SaveBytes
from weaksam_cli.training.loop import Progress, TrainingSettings
from weaksam_cli.training.progress import training_progress
from weaksam_cli.training.schedule import LearningRateSchedule


@dataclass(frozen=True)
class TrainingRun:
    """Where a training takes place, and where it keeps what it needs to go on.

    Attributes:
        device: `cpu`, `cuda` or `cuda:k`.
        seed: decides everything that is random.
        checkpoint, fingerprint: see `TrainingSettings`.
        save_bytes: writes the checkpoint atomically.
        progress: called after every step.
        workers: threads that load batches ahead.
    """

    device: str
    seed: int
    checkpoint: Path
    fingerprint: str
    save_bytes: SaveBytes
    progress: Progress | None = None
    workers: int = 0

    def settings(
        self,
        schedule: LearningRateSchedule,
        *,
        checkpoint_period: int,
        gradient_clip: float = 0.0,
        mixed_precision: bool = False,
    ) -> TrainingSettings:
        """These together with what the recipe says."""
        return TrainingSettings(
            schedule=schedule,
            seed=self.seed,
            checkpoint=self.checkpoint,
            checkpoint_period=checkpoint_period,
            fingerprint=self.fingerprint,
            gradient_clip=gradient_clip,
            mixed_precision=mixed_precision,
            workers=self.workers,
        )


@contextmanager
def training_run(job: Job, iterations: int, *, most_workers: int = 0) -> Iterator[TrainingRun]:
    """The run of a job of so many iterations, its progress shown; on a GPU at most `most_workers` threads load batches."""
    context, device = job.context, job.context.torch_device()
    with training_progress(context.console, iterations) as progress:
        yield TrainingRun(
            device=device,
            seed=context.seed,
            checkpoint=job.checkpoint,
            fingerprint=job.identity.key(),
            save_bytes=context.ops.write_atomically,
            progress=progress,
            workers=0 if device == "cpu" else min(context.workers, most_workers),
        )
