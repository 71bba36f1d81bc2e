"""Tiny training splits and networks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.cam.class_tokens.images import TrainingImages
from weaksam_cli.cam.class_tokens.method import AugmentSettings, FitSettings
from weaksam_cli.cam.class_tokens.training import Best, fit
from weaksam_cli.data.labels import Category, LabelledImage, Labels, LabelsFile, LabelsInfo
from weaksam_cli.models.vit.checkpoint import VitShape
from weaksam_cli.models.vit.mctformer import MCTformer
from weaksam_cli.training.loop import TrainingRun

PLAIN = AugmentSettings(rand_augment=None, erasing=0.0, colour_jitter=0.0, smallest_area=0.5)
FAST = FitSettings(
    initial=None,
    crop=16,
    epochs=2,
    batch_size=2,
    learning_rate=0.2,
    warmup_epochs=1,
    drop_path=0.2,
    augment=PLAIN,
)


def split(folder: Path, n_images: int, n_classes: int) -> Labels:
    """Noise with a channel that tells the class; image i shows class i % n_classes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"class {index}" for index in range(n_classes)]
    images = []
    for number in range(n_images):
        pixels = np.random.default_rng(number).integers(0, 120, (20, 24, 3), dtype=np.uint8)
        pixels[4:12, 6:18, number % 3] = 250
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        images.append(
            LabelledImage(
                id=number + 1,
                key=str(number),
                file_name=path.name,
                height=20,
                width=24,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                labels=[names[number % n_classes]],
            )
        )
    file = LabelsFile(
        info=LabelsInfo(
            format="weaksam/labels", format_version=1, dataset="tiny", split="train", role="train"
        ),
        categories=[Category(id=index + 1, name=name) for index, name in enumerate(names)],
        images=images,
        annotations=[],
        failed=[],
    )
    return Labels(folder / "labels.json", file, folder)


def tiny_network(n_classes: int, seed: int = 0) -> MCTformer:
    torch.manual_seed(seed)
    return MCTformer(VitShape(n_classes, width=16, depth=2, heads=2, hidden=32, patch=8, side=2), "v2")


class Killed(BaseException):
    """The process dies here."""


def train(
    labels: Labels, settings: FitSettings, checkpoint: Path, *, seed: int = 0, die_after: int | None = None
) -> Best:
    """Train the tiny network on all images; `die_after` iterations the process dies, its checkpoint written."""

    def progress(done: int, _: int, losses: dict[str, float]) -> None:
        if losses and done == die_after:
            raise Killed

    run = TrainingRun(
        "cpu", seed, checkpoint, "fingerprint", FileOps().write_atomically, progress, checkpoint_every=1
    )
    samples = TrainingImages(labels, labels.keys, settings, seed)
    return fit(tiny_network(len(labels.class_names)), samples, run)
