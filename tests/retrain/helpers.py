"""Tiny detectors of detectron2, images and pseudo ground truth that they learn from."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tests.artifacts.helpers import context
from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import Identity
from weaksam_cli.data.labels import (
    Category,
    LabelledImage,
    LabelsFile,
    LabelsInfo,
    Split,
    labels_bytes,
)
from weaksam_cli.engine.context import Job
from weaksam_cli.retrain.detector import detectron_config, fit, fit_detector, stored_config
from weaksam_cli.retrain.settings import DetectorSettings
from weaksam_cli.training.checkpoint import model_bytes
from weaksam_cli.training.loop import TrainingRun

ITERATIONS = 4
CLASSES = ["cat", "dog"]
LOSSES = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
HEIGHT, WIDTH = 50, 70
VALUES: dict[str, Any] = {
    "network": "lite0-fpn",
    "backbone": {"weights": "random", "freeze_at": 3},
    "detector": {
        "channels": 8,
        "box_head_channels": 16,
        "roi_batch": 16,
        "rpn_batch": 16,
        "context": True,
    },
    "schedule": {"iterations": ITERATIONS, "batch_size": 2, "learning_rate": 0.001},
    "train_images": {"short_sides": [48, 64], "max_size": 96},
    "inference": {
        "short_side": 64,
        "max_size": 96,
        "score_threshold": 0.0,
        "detections": 7,
        "augment_short_sides": [48, 64],
        "augment_max_size": 96,
    },
    "roi_drop": {"start_iteration": 2, "tau_cls": 0.5, "tau_reg": 0.1},
}
"""Of a recipe whose training takes a second."""


def read_image(key: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(int(key))
    image = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[10:40, 15:55] = rng.integers(120, 255, 3)
    return image


def entries(**more: Any) -> list[dict[str, Any]]:
    """Four images with the bright rectangle as the one object, but for the first, which has none."""
    box = {"bbox": [15.0, 10.0, 55.0, 40.0], "bbox_mode": 0, "category_id": 1, "iscrowd": 0, **more}
    size = {"height": HEIGHT, "width": WIDTH}
    return [{"key": str(k), "image_id": k, **size, "annotations": [box] if k else []} for k in range(4)]


class Killed(BaseException):
    pass


def train(
    folder: Path,
    settings: DetectorSettings,
    dicts: list[dict[str, Any]],
    losses: set[str] = LOSSES,
    *,
    kill_after: int | None = None,
) -> nn.Module:
    def progress(done: int, total: int, values: dict[str, float]) -> None:
        assert set(values) == losses or not values
        if done == kill_after:
            raise Killed

    where = TrainingRun(
        "cpu", 5, folder / "checkpoint.pt", "recipe", Path.write_bytes, progress, checkpoint_every=1
    )
    return fit(settings, config(settings), dicts, read_image, where)


def config(settings: DetectorSettings) -> Any:
    return detectron_config(settings, len(CLASSES), "cpu")


def build(settings: DetectorSettings) -> nn.Module:
    from detectron2.modeling import build_model

    model: nn.Module = build_model(config(settings))
    return model


def saved(path: Path, model: nn.Module, settings: DetectorSettings) -> Path:
    data = {"class_names": CLASSES, "detectron2": stored_config(config(settings))}
    path.write_bytes(model_bytes(model, data))
    return path


def read_script(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have torch.export
        return torch.jit.load(io.BytesIO(data))


def labels_in(folder: Path, names: dict[str, str]) -> Split:
    """Labels of images (key -> file name) that lie in `folder`."""
    images = []
    for number, (key, name) in enumerate(names.items()):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(read_image(key)).save(path)
        images.append(
            LabelledImage(
                id=number,
                key=key,
                file_name=name,
                height=HEIGHT,
                width=WIDTH,
                sha256=digest.of_file(path),
                labels=["dog"],
            )
        )
    info = LabelsInfo(format="weaksam/labels", format_version=1, dataset="demo", split="t", role="train")
    categories = [Category(id=4, name="cat"), Category(id=9, name="dog")]
    file = LabelsFile(info=info, categories=categories, images=images, annotations=[], failed=[])
    (folder / "labels.json").write_bytes(labels_bytes(file))
    return Split(folder / "labels.json", folder / "images")


def document(names: dict[str, str], **changes: Any) -> bytes:
    """Pseudo ground truth with one object, of the second image."""
    images = [
        {"id": number + 100, "key": key, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for number, (key, name) in enumerate(names.items())
    ]
    box = {"image_id": 101, "category_id": 9, "bbox": [15, 10, 40, 30], "score": 0.5, "area": 1, "iscrowd": 0}
    values = {"categories": [{"id": 9, "name": "dog"}], "images": images, "annotations": [box]}
    return json.dumps(values | changes).encode()


def train_on(folder: Path, settings: DetectorSettings, split: Split, pgt: bytes) -> Path:
    """The model's file, from pseudo ground truth with one image."""
    (folder / "pgt.json").write_bytes(pgt)
    identity = Identity(
        stage="retrain",
        stage_version=1,
        format="x",
        format_version=1,
        dataset="demo",
        split="t",
        recipe_name="",
        recipe={},
        seed=5,
        inputs={},
    )
    job = Job(context(folder, device="cpu"), folder / "model.safetensors", identity)
    outcome = fit_detector(settings, folder / "pgt.json", split, None, job)
    assert outcome.images == 1
    return job.path
