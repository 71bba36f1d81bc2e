"""What the frame costs where a predictor costs nothing: 10,000 to a million images, step by step.

Run: python benchmarks/scaling.py FOLDER --images 10000 100000 1000000 [--rows FILE] [--plot docs/scaling.png]

Each size in a process of its own, in FOLDER, which is emptied of it afterwards; images have 3 or 4 boxes. Seconds are those
of the CPU, which other processes of the machine do not lengthen; what waits for the disk is in `wall`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.cli.inspect import inspect_file, show_status
from weaksam_cli.cli.options import CommonOptions
from weaksam_cli.console import Console, Mode, format_table
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.source import SOURCE_FILE
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.executors.local import LocalExecutor
from weaksam_cli.engine.executors.task import Task
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.models.weights.catalogue import WeightsFinder
from weaksam_cli.propose.stage import STAGE

BOXES = (3, 4)
COLUMNS = {
    "plan": "plan, s",
    "shards": "shards, s",
    "files": "shards",
    "done_scan": "done-scan, s",
    "status_begun": "status, begun, s",
    "merge": "merge, s",
    "each": "shards and merge, ms an image",
    "wall": "the same with waiting, s",
    "fresh": "fresh again, s",
    "status": "status, s",
    "inspect_image": "inspect --image, s",
    "read": "boxes read, s",
    "boxes": "boxes",
    "memory": "memory, MB",
    "size": "file, MB",
}


@dataclass(frozen=True)
class Trivial:
    """Boxes that cost nothing: of each number of them the same."""

    def open(self) -> ImageFunction:
        known = [_rows(count) for count in BOXES]
        return lambda image_id: known[int(image_id[-5]) % len(known)]


def _rows(count: int) -> ImageRows:
    corners = np.sort(np.random.default_rng(count).random((count, 2, 2)), axis=1) * [500, 375]
    return ImageRows(
        columns={
            "boxes": corners.reshape(count, 4).astype(np.float32),
            "source": np.zeros(count, np.int8),
            "prompt": np.arange(count, dtype=np.int32),
            "mask_token": np.zeros(count, np.int8),
            "predicted_iou": np.linspace(0.5, 0.9, count, dtype=np.float32),
            "stability": np.full(count, 0.9, np.float32),
        },
        image={"image_size": np.array([375, 500], np.int32)},
        blobs={"masks": [np.zeros(0, np.uint8)] * count},
    )


@dataclass
class Watch:
    """Seconds by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = time.process_time() - start


@dataclass(frozen=True)
class Watched:
    """The local executor, with a look at the folder when all shards are there."""

    watch: Watch
    status: Callable[[], None]

    def device(self, asked: str) -> str:
        return "cpu"

    def run(self, task: Task) -> int:
        with self.watch.time("shards"):
            images = LocalExecutor().run(task)
        with self.watch.time("done_scan"):
            found = task.plan.done_indexes()
        assert len(found) == len(task.plan)
        self.watch.seconds["files"] = len(found)
        with self.watch.time("status_begun"):
            self.status()
        return images


def measure(folder: Path, images: int) -> dict[str, float]:
    """All figures of one size, in this process."""
    watch, quiet = Watch(), Console(Mode.QUIET, io.StringIO(), io.StringIO())
    root = folder / "run"
    (root / SOURCE_FILE).parent.mkdir(parents=True)
    (root / SOURCE_FILE).write_text('{"splits": {}}')
    options = CommonOptions(run_dir=root, dataset="scaling")

    def status() -> None:
        show_status(options, quiet)

    executor = Watched(watch, status)
    context = Context(
        "scaling", RunDirectory(root), quiet, FileOps(), WeightsFinder(()), executor=executor, workers=1
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with watch.time("plan"):
        keys = [f"train/{number // 1000:04d}/{number:012d}.jpg" for number in range(images)]
        run = PerImage(PROPOSALS, keys, Trivial(), "proposals", {"source_names": SOURCES})
        path = root / "proposals" / "all.h5"
        step = Step(path, PROPOSALS, "all", RecipeModel(), {}, run, "proposals")
    start = time.perf_counter()
    with watch.time("all"):
        make(step, STAGE, context)
    seconds = watch.seconds
    seconds["wall"] = time.perf_counter() - start
    seconds["merge"] = seconds["all"] - seconds["shards"] - seconds["done_scan"] - seconds["status_begun"]
    seconds["each"] = 1000 * (seconds["shards"] + seconds["merge"]) / images
    seconds["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    with watch.time("fresh"):
        make(step, STAGE, context)
    with watch.time("status"):
        status()
    with watch.time("inspect_image"):
        nothing = {"first": None, "draw": None, "images": None, "score": None}
        inspect_file(options, quiet, file=path, image=[keys[-1]], **nothing)
    with open_artifact(path, PROPOSALS, verify=False) as artifact, watch.time("read"):
        seconds["boxes"] = len(artifact.column("boxes"))
    seconds["size"] = path.stat().st_size / 1e6
    return {"images": images, **{name: seconds[name] for name in COLUMNS}}


def measure_alone(folder: Path, images: int) -> dict[str, float]:
    """The same in a process of its own."""
    folder.mkdir(parents=True)
    command = [sys.executable, __file__, str(folder), "--alone", "--images", str(images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(folder)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        [name, *(f"{row[key]:,.0f}" if key in ("files", "boxes") else f"{row[key]:,.3g}" for row in rows)]
        for key, name in COLUMNS.items()
    ]
    return format_table(["", *(f"{row['images']:,.0f}" for row in rows)], *lines)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """How each cost grows, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    images = [row["images"] for row in rows]
    for name in ("shards", "merge", "done_scan", "status", "inspect_image", "read"):
        axes.plot(images, [row[name] for row in rows], marker="o", label=COLUMNS[name].removesuffix(", s"))
    axes.plot(images, [count / 1000 for count in images], "--", color="grey", label="1 ms an image")
    axes.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--rows", type=Path, help="keep the figures there, and measure those sizes alone that it lacks"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--alone", action="store_true", help="in this process, as JSON")
    options = parser.parse_args()
    if options.alone:
        sys.stdout.write(json.dumps(measure(options.folder, options.images[0])) + "\n")
        return
    rows: list[dict[str, float]] = []
    if options.rows and options.rows.is_file():
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    for images in options.images:
        if images not in [row["images"] for row in rows]:
            rows.append(measure_alone(options.folder / str(images), images))
        if options.rows:
            options.rows.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        sys.stdout.write(f"{table(rows)}\n\n")
        sys.stdout.flush()
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
