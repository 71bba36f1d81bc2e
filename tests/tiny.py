"""Tiny datasets and runs for whole-program tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.fuzz.process import end_group, run_forked, start_forked
from weaksam_cli.__main__ import main
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.cli.app import app
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.steps import Step

CLASSES = ("blue one", "green one", "red one")
FAST = {
    "cam": ("short_sides=[64]", "head.short_side=64", "head.iterations=10"),
    "prompt": (),
    "propose": ("grid_boxes=40",),
    "wsod": (
        "network.dense.short_side=64", "network.dense.epochs=2", "network.dense.folds=2", "network.features.samples=8",
        "network.features.components=8",
        "schedule.epochs=2", "schedule.warmup_iterations=0", "proposals.min_side=4",
    ),
    "pgt": (),
    "retrain": (
        "schedule.epochs=1", "schedule.min_iterations=1", "schedule.batch_size=2", "schedule.warmup_share=0",
        "roi_drop.start_share=0.5",
        "train_images.short_sides=[64]", "inference.short_side=64",
        "inference.augment_short_sides=[64]", "inference.score_threshold=0.0", "choice_images=0",
    ),
    "eval": (),
}  # fmt: skip
"""Settings that make each stage quick; what it computes is not looked at here."""
_XML = """<annotation><filename>{key}.jpg</filename><size><width>{width}</width><height>{height}</height>
<depth>3</depth></size>{objects}</annotation>
"""
_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>
<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def write_voc(folder: Path, trainval: int = 6, test: int = 3, size: tuple[int, int] = (48, 64)) -> Path:
    """A VOC folder of small images: a bright rectangle of the class's colour on noise."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    height, width = size
    keys = [f"{number:06d}" for number in range(1, trainval + test + 1)]
    for number, key in enumerate(keys):
        generator = np.random.default_rng(number)
        pixels = generator.integers(60, 120, (height, width, 3), dtype=np.uint8)
        index = number % len(CLASSES)
        channel = 2 - index
        left, top = 6 + number % 9, 5 + number % 7
        right, bottom = left + width // 2, top + height // 2
        pixels[top:bottom, left:right, channel] = 250
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{key}.jpg", quality=95)
        box = _OBJECT.format(left + 1, top + 1, right, bottom, name=CLASSES[index], difficult=0)
        text = _XML.format(key=key, width=width, height=height, objects=box)
        (folder / "Annotations" / f"{key}.xml").write_text(text)
    lists = folder / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("".join(f"{key}\n" for key in keys[:trainval]))
    if test:
        (lists / "test.txt").write_text("".join(f"{key}\n" for key in keys[trainval:]))
    return folder


def weaksam(
    *arguments: str | Path, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program as a user types it, in `folder`: in a child of this process, which has imported what takes seconds."""
    words = [*map(str, arguments)]
    _import_libraries()
    with TemporaryDirectory(prefix="weaksam-test-") as log:
        (ended,) = run_forked([partial(_typed, words, environment)], folder, Path(log), seconds=300)
    assert ended.code is not None, f"weaksam {words} does not end"
    return subprocess.CompletedProcess(words, ended.code, ended.out.decode(), ended.err.decode())


@cache
def _import_libraries() -> None:
    """What a child would need seconds to import, each child anew."""
    for name in (
        "torch",
        "torchvision",
        "timm",
        "cv2",
        "sklearn.cluster",
        "matplotlib.pyplot",
        "pycocotools.coco",
    ):
        import_module(name)


def _typed(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """The program in this process, a child, for good."""
    os.environ.update({"WEAKSAM_WEIGHTS": "", **(environment or {})})
    sys.argv = ["weaksam", *words]
    main()


@dataclass(frozen=True)
class Started:
    """A command of the program that runs in a child, whose id is that of its group, too.

    Attributes:
        child: process id.
        log: folder of what it writes.
    """

    child: int
    log: Path

    def send(self, number: signal.Signals) -> None:
        os.kill(self.child, number)

    def is_running(self) -> bool:
        return os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def ended(self) -> tuple[int, str]:
        """Wait: its exit code, negative for a signal, and what it said on stderr."""
        status, _ = end_group(self.child, kill=False)
        return os.waitstatus_to_exitcode(status), (self.log / "err-0").read_text()


def start_weaksam(*arguments: str, folder: Path, log: Path) -> Started:
    """Begin what `weaksam` runs to its end; `log` is a new folder for its output."""
    log.mkdir()
    _import_libraries()
    return Started(start_forked(partial(_typed, arguments), folder, log), log)


def weaksam_alone(
    *arguments: str | Path, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own: for what depends on how that starts, and on what is imported when."""
    return subprocess.run(
        [sys.executable, "-m", "weaksam_cli", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "WEAKSAM_WEIGHTS": "", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def run_here(*arguments: str) -> Result:
    """The command in this process, in its working folder."""
    return CliRunner().invoke(app, arguments)


def done_here(*arguments: str) -> str:
    """What a command in this process says, which ends well."""
    result = run_here(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def run_stage(folder: Path, stage: str, *more: str) -> str:
    """What a stage says, run in this process: a process of its own would import torch for each."""
    sets = [item for setting in FAST[stage] for item in ("--set", setting)]
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEAKSAM_WEIGHTS", "")
        return done_here(stage, "--dataset", "tiny", "--profile", "embedded", "--workers", "1", *sets, *more)


def run_all(folder: Path, source: Path) -> None:
    with contextlib.chdir(folder):
        done_here("data", str(source), "--dataset", "tiny")
    for stage in FAST:
        if stage != "eval":
            run_stage(folder, stage)


@dataclass(frozen=True)
class SyntheticMaps:
    """A bump a class, at two scales, for any image."""

    size: tuple[int, int]

    def open(self) -> ImageFunction:
        def function(image_id: str) -> ImageRows:
            generator = np.random.default_rng(int(image_id))
            classes = sorted(generator.choice(len(CLASSES), size=2, replace=False).tolist())
            rows = [(index, kind, scale) for index in classes for kind in (0, 1) for scale in (1.0, 0.5)]
            maps = [
                generator.random((round(8 * scale), round(10 * scale))).astype(np.float32)
                for _, _, scale in rows
            ]
            return ClassMaps(
                np.asarray([row[0] for row in rows], np.int32),
                np.asarray([row[1] for row in rows], np.int8),
                np.zeros(len(rows), np.int16),
                np.asarray([row[2] for row in rows], np.float32),
                tuple(maps),
                self.size,
                generator.random(len(CLASSES), dtype=np.float32),
            ).to_rows()

        return function


def synthetic_cam(path: Path, keys: Sequence[str], size: tuple[int, int] = (48, 64)) -> Step:
    """A `cam` artifact for a split of a tiny dataset."""
    schema = cam_schema(len(CLASSES))
    run = PerImage(schema, keys, SyntheticMaps(size), "maps", {"class_names": CLASSES, "kind_names": KINDS})
    return Step(path, schema, "trainval", RecipeModel(), {}, run, "synthetic maps")
