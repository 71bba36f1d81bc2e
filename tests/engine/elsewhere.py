"""A step whose images leave a trace, for workers in other processes; `python -m tests.engine.elsewhere` makes it."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tests.artifacts.helpers import STAGE, context, rows_of, step
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.console import Console, Mode, _LineProgress
from weaksam_cli.engine.executors.choice import choose_executor
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.errors import ImageError

SHARD = 4
"""Images of a shard of these steps."""
BROKEN = ("i2", "i9")


@dataclass(frozen=True)
class Traced:
    """Notes each image that it computes; kills its process at one, once.

    Attributes:
        folder: of the trace.
        seconds: that an image takes.
        deadly: the image.
    """

    folder: Path
    seconds: float = 0.0
    deadly: str = ""

    def open(self) -> ImageFunction:
        def compute(image_id: str) -> ImageRows:
            with (self.folder / "trace").open("a") as file:
                file.write(f"{image_id} {os.getpid()}\n")
            killed = self.folder / "killed"
            if image_id == self.deadly and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            if image_id in BROKEN:
                raise ImageError("truncated", where=image_id)
            return rows_of(image_id)

        return compute


def traced_step(folder: Path, images: int, seconds: float = 0.0, deadly: str = "") -> Step:
    """A step in a folder, with its trace there."""
    plain = step(folder / "a.h5", images, BROKEN)
    assert isinstance(plain.run, PerImage)
    return replace(plain, run=replace(plain.run, predictor=Traced(folder, seconds, deadly)))


def whole(folder: Path, images: int) -> bytes:
    """What the artifact is to be, made in this process."""
    folder.mkdir()
    make(traced_step(folder, images), STAGE, context(folder))
    return (folder / "a.h5").read_bytes()


def traced(folder: Path) -> list[tuple[str, str]]:
    """(image, process) of all that was computed, in order."""
    trace = folder / "trace"
    lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
    return [(line[0], line[1]) for line in lines]


def computed(folder: Path) -> Counter[str]:
    """Image -> how many times it was computed."""
    return Counter(image for image, _ in traced(folder))


def wait_for(folder: Path, images: int = 0, processes: int = 0, seconds: float = 60.0) -> None:
    """Until so many images are computed, by so many processes in all."""
    deadline = time.monotonic() + seconds
    while len(found := traced(folder)) < images or len({process for _, process in found}) < processes:
        assert time.monotonic() < deadline, "nothing goes on"
        time.sleep(0.02)


def expect_progress(said: str, images: int) -> None:
    """A command showed images of unfinished shards, too, and all of them in the end."""
    shown = [int(number) for number in re.findall(rf": (-?\d+)/{images} images", said)]
    assert shown[-1] == images, shown
    assert all(0 <= number <= images for number in shown), shown
    assert any(number % SHARD for number in shown), shown


def main(
    executor: str, folder: str, images: str, seconds: str, deadly: str, workers: str, *more: str
) -> None:
    """Make the step with an executor."""
    console = Console(Mode.HUMAN, io.StringIO(), sys.stderr)
    _LineProgress.interval = 0.0
    told = context(Path(folder), console=console, executor=choose_executor(executor, more, int(workers)))
    make(traced_step(Path(folder), int(images), float(seconds), deadly), STAGE, told)


if __name__ == "__main__":
    main(*sys.argv[1:])
