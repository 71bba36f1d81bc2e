"""A whole run in a second, of a dataset whose names try to be markup; what is detected is made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from tests.artifacts.helpers import Knob, context
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.cli.app import app
from weaksam_cli.core import masks
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import PGT, RESULTS, annotations_bytes, result_texts
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.pgt import adaptive

SCRIPT, QUOTE, CHINESE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "猫 {{ 7*7 }}",
)
CLASSES = (SCRIPT, QUOTE, CHINESE)
SPLITS = {"train": 8, "test": 3}
HEIGHT, WIDTH = 60, 80
CIRCLE = np.stack([np.cos(np.linspace(0, 6, 24)), np.sin(np.linspace(0, 6, 24))], axis=1)


def box_of(number: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the object of an image."""
    return 6 + 5 * (number % 5), 5 + 4 * (number % 4), 36, 30


def centre_of(number: int) -> NDArray[np.float64]:
    """x and y of its centre."""
    left, top, width, height = box_of(number)
    return np.asarray([left + width / 2, top + height / 2])


def write_dataset(folder: Path) -> Path:
    for split, count in SPLITS.items():
        images, annotations = [], []
        for number in range(count):
            name = f"{split}/{'<b>bold' if number == 1 else number} & 'x'.jpg"
            pixels = np.random.default_rng(number).integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
            left, top, width, height = box_of(number)
            pixels[top : top + height, left : left + width, number % 3] = 250
            (folder / "images" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            entry: dict[str, Any] = {
                "id": number,
                "image_id": number,
                "category_id": number % 3 + 1,
                "iscrowd": 0,
            }
            ring = (centre_of(number) + 0.5 * np.asarray([width, height]) * CIRCLE).round(2)
            entry |= {"bbox": [left, top, width, height], "segmentation": [ring.reshape(-1).tolist()]}
            annotations.append({**entry, "area": width * height})
        categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def typed(*words: str | Path) -> str:
    """What a command prints that has to succeed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@dataclass(frozen=True)
class Maps:
    """A bump where the object is."""

    def open(self) -> Callable[[str], ImageRows]:
        def compute(key: str) -> ImageRows:
            heat = np.zeros((15, 20), np.float32)
            heat[5:9, 6:12] = 1
            maps = (heat, heat * 0.5)
            kinds, zeros = np.asarray([0, 1], np.int8), np.zeros(2, np.int32)
            return ClassMaps(
                zeros, kinds, np.zeros(2, np.int16), np.ones(2, np.float32), maps, (HEIGHT, WIDTH),
                np.asarray([0.9, 0.1, 0.2], np.float32),
            ).to_rows()  # fmt: skip

        return compute


def detections(labels: Labels, shift: float) -> dict[str, Detections]:
    """The object of each image, off by some pixels, and two boxes that are on none."""
    found = {}
    for number, key in enumerate(labels.keys):
        left, top, width, height = box_of(number)
        boxes = [[left + shift, top, left + width, top + height], [0, 0, 12, 9], [0, 0, WIDTH, HEIGHT]]
        classes = np.asarray([number % 3, number % 3, 0], np.int32)
        scores = np.asarray([0.9 - 0.05 * number, 0.4, 0.1], np.float32)
        found[key] = Detections(np.asarray(boxes, np.float32), classes, scores)
    return found


def masked(found: dict[str, Detections]) -> dict[str, Detections]:
    """The same with a mask each: the ellipse in its box, with a hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5

    def drawn(box: NDArray[np.float32]) -> NDArray[np.bool_]:
        (left, top, right, bottom), radius = box, np.maximum((box[2:] - box[:2]) / 2, 1)
        away = ((columns - (left + right) / 2) / radius[0]) ** 2 + (
            (rows - (top + bottom) / 2) / radius[1]
        ) ** 2
        return np.asarray((away <= 1) & (away > 0.05))

    return {
        key: replace(item, masks=tuple(masks.encode(np.stack([drawn(box) for box in item.boxes]))))
        for key, item in found.items()
    }


def write_detections(run: Path, stage: str, split: str, shift: float, *, outlined: bool = False) -> None:
    labels = read_labels(run / "labels" / f"{split}.json", run)
    found = detections(labels, shift)
    found = masked(found) if outlined else found
    texts = [text for key, item in found.items() for text in result_texts(labels)(key, item)]

    def write(job: Job) -> Outcome:
        job.context.ops.write_atomically(job.path, f"[{','.join(texts)}]".encode())
        return Outcome(len(labels.keys), ((labels.keys[0], "<i>no reason</i>"),))

    step = Step(run / stage / "detections" / f"{split}.json", RESULTS, split, Knob(), {}, write, "made up")
    make(step, load_stage(stage), context(run, dataset="marks", overwrite=outlined))


def with_masks(run: Path, copy: Path) -> Path:
    """A copy of a finished run whose pseudo labels and retrained detections have masks."""
    shutil.copytree(run, copy, copy_function=shutil.copy2)
    labels = read_labels(copy / "labels" / "train.json", copy)
    chosen = {
        key: item.take(np.arange(1 + number % 2))
        for number, (key, item) in enumerate(detections(labels, 4).items())
    }

    def write(job: Job) -> Outcome:
        job.context.ops.write_atomically(job.path, annotations_bytes(masked(chosen), labels))
        return Outcome(len(labels.keys))

    inputs = {"wsod": copy / "wsod" / "detections" / "train.json", "data": copy / "labels" / "train.json"}
    step = Step(copy / "pgt" / "train.json", PGT, "train", adaptive.Recipe(), inputs, write, "made up")
    make(step, load_stage("pgt"), context(copy, dataset="marks", overwrite=True))
    for split in SPLITS:
        write_detections(copy, "retrain", split, 2, outlined=True)
    return copy


def finished_run(folder: Path) -> Path:
    """The run directory of a finished run in `folder`, which is the working folder."""
    run = folder / "runs" / "marks"
    where = ("--dataset", "marks", "--run-dir", run)
    typed("data", write_dataset(folder / "set"), *where)
    for split in SPLITS:
        labels = read_labels(run / "labels" / f"{split}.json", run)
        tables = {"class_names": CLASSES, "kind_names": KINDS}
        schema = cam_schema(len(CLASSES))
        make_maps = PerImage(schema, labels.keys, Maps(), "maps", tables)
        step = Step(run / "cam" / f"{split}.h5", schema, split, Knob(), {}, make_maps, "maps")
        make(step, load_stage("cam"), context(run, dataset="marks"))
    typed("prompt", *where, "--workers", "1")
    for more in ((), ("--variant", "few")):
        count = "20" if more else "60"
        recipe = ("--recipe", "region-tree", "--set", f"grid_boxes={count}")
        typed("propose", *where, *recipe, "--workers", "1", *more)
    for split in SPLITS:
        write_detections(run, "wsod", split, 14)
        write_detections(run, "retrain", split, 2)
    typed("pgt", *where)
    typed("eval", *where)
    rows = [
        {"iteration": step, "lr": 0.1, "total_loss": 3 / step, "loss_cls": 2 / step} for step in (20, 40, 60)
    ]
    (run / "retrain" / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return run
