"""How long does `weaksam eval` take on a split of VOC2007's size?

    OMP_NUM_THREADS=1 python benchmarks/eval_speed.py runs/gate/gate-200-0 FOLDER --images 4952

The test split of a finished run on a VOC folder, its images repeated under other names until there are so many, with their
annotations, class maps, peaks, proposals and detections of WSOD and of the retrained detector; then `weaksam eval` on it, in
a process of its own: CPU seconds and those of the clock.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import cam_schema
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.points import POINTS
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.detections import RESULTS
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.models.weights.catalogue import WeightsFinder

SPLIT, NAME = "test", "repeated"


@dataclass(frozen=True)
class Copied:
    """Rows of the image that a repeated one stands for."""

    path: Path
    schema: Schema

    def open(self) -> ImageFunction:
        artifact = open_artifact(self.path, self.schema, verify=False)

        def rows(image_id: str) -> ImageRows:
            key, own = original(image_id), self.schema
            return ImageRows(
                {item.name: artifact.rows(key, item.name) for item in own.columns},
                {item.name: artifact.image_value(key, item.name) for item in own.image_columns},
                {item.name: artifact.blobs(key, item.name) for item in own.blobs},
            )

        return rows


def original(key: str) -> str:
    return key.partition("-")[0]


def write_dataset(source: Path, folder: Path, keys: list[str]) -> None:
    """A VOC folder of links, one training image and the repeated ones."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    train = (source / "ImageSets/Main/trainval.txt").read_text().split()[:1]
    for key in (*train, *keys):
        for part, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            (folder / part / f"{key}{suffix}").symlink_to(
                (source / part / f"{original(key)}{suffix}").resolve()
            )
    for split, names in (("trainval", train), (SPLIT, keys)):
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))


def copied_detections(source: Path, keys: list[str], numbers: dict[str, int], job: Job) -> Outcome:
    by_image: dict[int, list[dict[str, object]]] = {}
    for item in json.loads(source.read_text()):
        by_image.setdefault(item["image_id"], []).append(item)
    found = [
        item | {"image_id": number}
        for number, key in enumerate(keys, 1)
        for item in by_image.get(numbers[original(key)], [])
    ]
    job.context.ops.write_atomically(job.path, json.dumps(found).encode())
    return Outcome(len(keys))


def make_run(run: RunDirectory, root: Path, keys: list[str]) -> None:
    """The artifacts of the repeated images."""
    labels = read_labels(run.output("data", SPLIT), Path())
    numbers = {image.key: image.id for image in labels.file.images}
    repeated = RunDirectory(root)
    quiet = Console(Mode.QUIET, io.StringIO(), io.StringIO())
    context = Context(NAME, repeated, quiet, FileOps(), WeightsFinder(()), workers=1)
    data = {"data": repeated.output("data", SPLIT)}
    for stage, schema in (
        ("cam", cam_schema(len(labels.class_names))),
        ("prompt", POINTS),
        ("propose", PROPOSALS),
    ):
        path = run.output(stage, SPLIT)
        with open_artifact(path, schema, verify=False) as artifact:
            tables = {name: artifact.table(name) for name in schema.tables}
        copy = PerImage(schema, keys, Copied(path, schema), stage, tables)
        step = Step(repeated.output(stage, SPLIT), schema, SPLIT, RecipeModel(), data, copy, stage)
        make(step, load_stage(stage), context)
    for stage in ("wsod", "retrain"):
        write = partial(copied_detections, run.output(stage, SPLIT), keys, numbers)
        step = Step(repeated.output(stage, SPLIT), RESULTS, SPLIT, RecipeModel(), data, write, stage)
        make(step, load_stage(stage), context)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=4952)
    options = parser.parse_args()
    source = json.loads((options.run / "labels/source.json").read_text())["splits"][SPLIT]["path"]
    names = (Path(source) / f"ImageSets/Main/{SPLIT}.txt").read_text().split()
    keys = [f"{name}-{turn:03d}" for turn in range(1 + options.images // len(names)) for name in names]
    keys = sorted(itertools.islice(keys, options.images))
    root, weaksam = options.folder / "run", [sys.executable, "-m", "weaksam_cli"]
    common = ["--dataset", NAME, "--run-dir", str(root), "--quiet"]
    if not root.exists():
        write_dataset(Path(source), options.folder / "data", keys)
        subprocess.run([*weaksam, "data", str(options.folder / "data"), *common], check=True)
        make_run(RunDirectory(options.run), root, keys)
    (root / "eval" / f"{SPLIT}.json").unlink(missing_ok=True)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([*weaksam, "eval", "--split", SPLIT, *common, "--overwrite"], check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    sys.stdout.write(f"{len(keys)} images: {spent:.1f} CPU s, {time.perf_counter() - start:.1f} s\n")


if __name__ == "__main__":
    main()
