"""Fine-tuning of the last stages of lite0 on image-level labels (a switch; the default keeps the backbone frozen)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from weaksam_cli.cam.recipe import FineTuneSettings
from weaksam_cli.models.lite0 import HEAD_CHANNELS, Lite0, preprocess
from weaksam_cli.models.views import resize_to_short_side

ReadImage = Callable[[int], NDArray[np.uint8]]


def square_view(image: NDArray[np.uint8], side: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """A random square crop of the resized image, mirrored half of the time: uint8 (side, side, 3)."""
    resized = resize_to_short_side(image, side)
    padded = np.zeros((max(side, resized.shape[0]), max(side, resized.shape[1]), 3), np.uint8)
    padded[: resized.shape[0], : resized.shape[1]] = resized
    top = int(generator.integers(padded.shape[0] - side + 1))
    left = int(generator.integers(padded.shape[1] - side + 1))
    crop = padded[top : top + side, left : left + side]
    return crop[:, ::-1] if generator.random() < 0.5 else crop


def trainable(backbone: Lite0, stages: int) -> list[nn.Parameter]:
    """Parameters of the last stages and of the last convolution; everything else is frozen."""
    backbone.requires_grad_(False)
    blocks: list[nn.Module] = list(backbone.network.blocks)  # type: ignore[arg-type]
    learning = [*blocks[len(blocks) - stages :], backbone.network.conv_head, backbone.network.bn2]
    for module in learning:
        module.requires_grad_(True)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def fine_tune(
    backbone: Lite0,
    labels: NDArray[np.bool_],
    read_image: ReadImage,
    settings: FineTuneSettings,
    *,
    short_side: int,
    seed: int,
    on_epoch: Callable[[int, float], None],
) -> None:
    """Train the last stages in place; batch normalisation keeps its ImageNet statistics.

    Args:
        backbone: changed in place.
        labels: bool (n, classes).
        read_image: index -> uint8 RGB (H, W, 3).
        settings: how long and how fast.
        short_side: side of the square training views.
        seed: order and augmentation of every epoch are functions of it.
        on_epoch: called with (epochs done, mean loss).
    """
    torch.manual_seed(seed)
    classifier = nn.Linear(HEAD_CHANNELS, labels.shape[1])
    parameters = [*trainable(backbone, settings.stages), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * math.ceil(len(labels) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets = torch.from_numpy(labels.astype(np.float32))
    for epoch in range(settings.epochs):
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(labels))
        losses = []
        for start in range(0, len(order), settings.batch_size):
            rows: Sequence[int] = order[start : start + settings.batch_size].tolist()
            views = np.stack([square_view(read_image(row), short_side, generator) for row in rows])
            logits = classifier(backbone(preprocess(views)).mean(dim=(2, 3)))
            loss = F.multilabel_soft_margin_loss(logits, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        on_epoch(epoch + 1, float(np.mean(losses)))
    backbone.requires_grad_(False).eval()
