"""Where and from which seed a training runs, apart from what it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.engine.context import Job
from weaksam_cli.engine.execution import one_thread
from weaksam_cli.training.checkpoint import SaveBytes

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each iteration with the number of finished ones, the total, and the iteration's losses by name."""


@dataclass(frozen=True)
class TrainingRun:
    """How a training runs: nothing here but the seed changes its result.

    Attributes:
        device: `cpu`, `cuda` or `cuda:k`.
        seed: decides everything that is random.
        checkpoint: where the checkpoint lies; it is read to resume and replaced as the training goes on.
        fingerprint: what decides the result besides the code (recipe, inputs); a checkpoint with another is refused.
        save_bytes: writes the checkpoint atomically.
        progress: called after each iteration, and once at the start of a resumed training with no losses.
        workers: threads that load batches ahead.
        checkpoint_every: iterations between checkpoints; the last iteration always writes one.
    """

    device: str
    seed: int
    checkpoint: Path
    fingerprint: str
    save_bytes: SaveBytes
    progress: Progress | None = None
    workers: int = 0
    checkpoint_every: int = 100


@contextmanager
def training_run(
    job: Job, iterations: int, *, checkpoint_every: int | None = None, most_workers: int = 0
) -> Iterator[TrainingRun]:
    """The run of a job of so many iterations, its progress shown; on a GPU at most `most_workers` threads load batches.

    Inside, a CPU computes with one thread: the same weights on every machine, and on shared cores faster than threads
    that wait for each other.
    """
    context, device = job.context, job.context.torch_device()
    with one_thread(), context.console.progress("training", iterations, "iterations") as bar:
        done = 0

        def progress(iteration: int, _: int, losses: dict[str, float]) -> None:
            nonlocal done
            note = f"loss {sum(losses.values()):.3f}" if losses else f"resumed at iteration {iteration}"
            bar.advance(iteration - done, note)
            done = iteration

        yield TrainingRun(
            device=device,
            seed=context.seed,
            checkpoint=job.checkpoint,
            fingerprint=job.identity.key(),
            save_bytes=context.ops.write_atomically,
            progress=progress,
            workers=0 if device == "cpu" else min(context.workers, most_workers),
            checkpoint_every=checkpoint_every or context.checkpoint_every,
        )
