"""What an executor is asked to do, and the protocol that all of them keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.shards import ShardPlan
from weaksam_cli.console import Console
from weaksam_cli.engine.predictors import Predictor
from weaksam_cli.engine.queue import Share


@dataclass(frozen=True)
class Task:
    """What an executor is asked to do.

    Attributes:
        ops: the seam for writing.
        plan: which shards there are.
        predictor: what computes an image.
        part: the part of the shards that is to be made here; None for all.
        on_images: called with (images done, images failed), as they are done; a worker that died takes its images back.
        warn: called with something that the user should know.
        device: where the predictor's model lives: `cpu`, `cuda` or `cuda:N`.
        workers: most processes on this machine.
    """

    ops: FileOps
    plan: ShardPlan
    predictor: Predictor
    part: Share | None
    on_images: Callable[[int, int], None]
    warn: Callable[[str], None]
    device: str = "cpu"
    workers: int = 1


class Executor(Protocol):
    """Makes the shards of a task that are missing."""

    def device(self, asked: str) -> str:
        """Where networks of its workers live: `cpu`, `cuda` or `cuda:N`, of `asked`, which may be `auto`.

        Raises:
            UserError: its workers have no such device.
        """
        ...

    def run(self, task: Task) -> int:
        """Make every shard that is still missing, leaving out those that other commands make meanwhile.

        Returns:
            The number of images that were computed for it.

        Raises:
            UserError: a fault that stops the stage, or workers that died.
            ShardLostError: another command has merged the shards meanwhile.
        """
        ...


@contextmanager
def shown(
    console: Console, title: str, plan: ShardPlan, part: Share | None
) -> Iterator[Callable[[int, int], None]]:
    """The `on_images` of a task, which shows its progress on the console; says how much was done before."""
    found = plan.done_indexes()
    shards = [index for index in range(len(plan)) if part is None or part.owns(index)]
    total = sum(len(plan.images(index)) for index in shards)
    done = sum(len(plan.images(index)) for index in shards if index in found)
    if done and done < total:
        console.info(f"  resuming: {done} of {total} images are done", resumed=done)
    with console.progress(title, total, done=done) as progress:
        failures = 0

        def on_images(images: int, failed: int) -> None:
            nonlocal failures
            failures += failed
            progress.advance(images, f"{failures} failed" if failures else "")

        yield on_images
