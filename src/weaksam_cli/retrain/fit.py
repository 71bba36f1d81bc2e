"""Train the recipe's Faster R-CNN on pseudo ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from weaksam_cli.detectron.storage import in_event_storage
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.dataset import ImageReader, training_item
from weaksam_cli.retrain.faster_rcnn import build_detector, channel_order
from weaksam_cli.retrain.recipe import FasterRcnnRecipe, Schedule
from weaksam_cli.training.batches import EpochSampler, LoadItem, augmentation_rng, sampled
from weaksam_cli.training.loop import train
from weaksam_cli.training.run import TrainingRun
from weaksam_cli.training.schedule import LearningRateSchedule


@dataclass(frozen=True)
class TrainedDetector:
    """A trained model with what is needed to predict with it.

    Attributes:
        model: detectron2's GeneralizedRCNN.
        config: detectron2's configuration that it was built from.
    """

    model: nn.Module
    config: Any


def fit(
    recipe: FasterRcnnRecipe,
    entries: Sequence[Mapping[str, Any]],
    class_count: int,
    *,
    read_image: ImageReader,
    run: TrainingRun,
) -> TrainedDetector:
    """Build and train the detector, going on from its checkpoint where there is one.

    Args:
        recipe: what to train.
        entries: images with pseudo boxes (`dataset.dataset_dicts`).
        class_count: number of classes.
        read_image: from an entry's `file_name` to uint8 RGB (H, W, 3).
        run: where, and from which seed: it decides the initial weights, the order of the images, the augmentation and the
            sampling.

    Raises:
        UserError: no image has a pseudo box, or what `train` and `build_detector` raise.
    """
    if not any(entry["annotations"] for entry in entries):
        raise UserError(
            "no image has a pseudo box",
            where="pseudo ground truth",
            remedy="Lower the thresholds of `weaksam pgt` or look at the detections of `weaksam wsod`",
        )
    torch.manual_seed(run.seed)
    config, model = build_detector(recipe, class_count, run.device)
    train(
        model,
        make_optimizer(model, recipe.schedule),
        sampled(
            EpochSampler(len(entries), recipe.schedule.batch_size, run.seed),
            item_loader(recipe, entries, read_image, run.seed),
            run.workers,
        ),
        learning_rates(recipe.schedule),
        run,
        gradient_clip=recipe.schedule.gradient_clip,
        mixed_precision=recipe.schedule.mixed_precision,
        step=in_event_storage(),
    )
    return TrainedDetector(model, config)


def learning_rates(schedule: Schedule) -> LearningRateSchedule:
    """The recipe's learning rates as a function of the iteration."""
    return LearningRateSchedule(
        iterations=schedule.steps,
        milestones=schedule.milestones,
        gamma=schedule.gamma,
        warmup_iterations=schedule.warmup_iterations,
        warmup_factor=schedule.warmup_factor,
        cosine=schedule.decay == "cosine",
    )


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The recipe's optimiser over the layers that are not frozen; normalisation layers and biases of adamw do not decay."""
    bottom_up = model.backbone.bottom_up  # type: ignore[union-attr]
    backbone = {id(parameter) for parameter in bottom_up.parameters()}  # type: ignore[union-attr]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            plain = isinstance(module, nn.BatchNorm2d) or (schedule.optimizer == "adamw" and name == "bias")
            factor = schedule.backbone_factor if id(parameter) in backbone else 1.0
            decay = 0.0 if plain else schedule.weight_decay
            groups.setdefault((schedule.learning_rate * factor, decay), []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(settings, lr=schedule.learning_rate)
    return torch.optim.SGD(settings, lr=schedule.learning_rate, momentum=schedule.momentum)


def item_loader(
    recipe: FasterRcnnRecipe, entries: Sequence[Mapping[str, Any]], read_image: ImageReader, seed: int
) -> LoadItem:
    """The items of each iteration, a pure function of (seed, iteration, position)."""
    images, order = recipe.train_images, channel_order(recipe)

    def load(iteration: int, position: int, index: int) -> dict[str, Any]:
        return training_item(
            entries[index],
            read_image,
            augmentation_rng(seed, iteration, position),
            short_sides=images.short_sides,
            max_size=images.max_size,
            flip=images.flip,
            channel_order=order,
        )

    return load
