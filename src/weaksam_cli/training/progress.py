"""From a training's steps to the progress that a person sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weaksam_cli.console import Console


@contextmanager
def training_progress(
    console: Console, iterations: int
) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A callback for `training.train` that moves a bar of `iterations` and shows the sum of the losses beside it."""
    with console.progress("training", iterations, "iterations") as bar:
        done = 0

        def on_step(iteration: int, _: int, losses: dict[str, float]) -> None:
            nonlocal done
            note = f"loss {sum(losses.values()):.3f}" if losses else f"resumed at iteration {iteration}"
            bar.advance(iteration - done, note)
            done = iteration

        yield on_step
