"""Train MIST or OICR on VGG16 from images, proposals and image-level labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.vgg16 import Vgg16Shape
from weaksam_cli.training.batches import EpochSampler, LoadItem, sampled
from weaksam_cli.training.checkpoint import load_model, model_bytes, read_metadata
from weaksam_cli.training.loop import optimizer_step, train
from weaksam_cli.training.run import TrainingRun
from weaksam_cli.training.schedule import LearningRateSchedule
from weaksam_cli.wsod.end_to_end.detector import VggWeakDetector, build_vgg_detector
from weaksam_cli.wsod.end_to_end.recipe import DropBlockSettings, MistRecipe, OicrRecipe, ScheduleSettings
from weaksam_cli.wsod.end_to_end.trainer import Adversary

ADVERSARY_WARMUP_FACTOR = 1 / 3
_REFINEMENTS = "roi_heads.refinements."
_ADVERSARY = "roi_heads.drop_block."


def fit_vgg_detector(
    recipe: MistRecipe | OicrRecipe,
    load_item: LoadItem,
    images: int,
    class_names: Sequence[str],
    *,
    weights: Path | None,
    run: TrainingRun,
) -> bytes:
    """Train, going on from the checkpoint where there is one; returns the model as a safetensors file.

    Args:
        recipe: what to train; its schedule resolved.
        load_item: a pure function of its arguments.
        images: how many there are to learn from, at least 1.
        class_names: names of the classes.
        weights: the file of ImageNet weights; None for random ones.
        run: where and from which seed.

    Raises:
        UserError: what `train` and `build_vgg_detector` raise.
    """
    torch.manual_seed(run.seed)
    detector = _build(recipe, len(class_names), weights).to(run.device).train()
    schedule = recipe.schedule
    adversary = make_adversary(detector, recipe)
    train(
        detector,
        make_optimizer(detector, schedule),
        sampled(EpochSampler(images, schedule.batch_size, run.seed), load_item, run.workers),
        learning_rates(schedule),
        run,
        mixed_precision=schedule.mixed_precision,
        images_at_once=schedule.images_at_once,
        step=optimizer_step if adversary is None else adversary.after(),
        extras={} if adversary is None else {"adversary": adversary.optimizer},
    )
    return model_bytes(detector, {"class_names": list(class_names)})


def load_detector(
    path: Path, recipe: MistRecipe | OicrRecipe, class_names: Sequence[str], device: str
) -> VggWeakDetector:
    """A trained detector in evaluation mode.

    Args:
        path: of the model.
        recipe: that it was trained with.
        class_names: of the images that it is to look at.
        device: where it goes.

    Raises:
        UserError: the file is missing, damaged, of another model or for other classes.
    """
    trained_for = read_metadata(path).get("class_names")
    if trained_for != list(class_names):
        raise UserError(
            f"was trained for the classes {trained_for}, the images have {list(class_names)}",
            where=str(path),
            remedy="Give labels of the same dataset, or train anew: --variant NAME",
        )
    detector = _build(recipe, len(class_names), None)
    load_model(detector, path)
    return detector.to(device).eval()


def _build(recipe: MistRecipe | OicrRecipe, class_count: int, weights: Path | None) -> VggWeakDetector:
    shape = Vgg16Shape(recipe.network.widths, recipe.network.hidden)
    return build_vgg_detector(recipe, class_count, weights, shape)


def learning_rates(schedule: ScheduleSettings) -> LearningRateSchedule:
    """The detector's learning rates as a function of the iteration."""
    return LearningRateSchedule(
        iterations=schedule.steps,
        milestones=schedule.milestones,
        gamma=schedule.decay,
        warmup_iterations=schedule.warmup_iterations,
        warmup_factor=schedule.warmup_factor,
    )


def make_optimizer(detector: nn.Module, schedule: ScheduleSettings) -> torch.optim.Adam:
    """Adam over what is not frozen; biases learn faster and do not decay, refinement branches as the schedule says."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad or name.startswith(_ADVERSARY):
            continue
        factor, decay = 1.0, schedule.weight_decay
        if schedule.refinement_factor is not None and name.startswith(_REFINEMENTS):
            factor = schedule.refinement_factor
        elif name.endswith(".bias"):
            factor, decay = schedule.bias_factor, 0.0
        groups.setdefault((schedule.learning_rate * factor, decay), []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()
    ]
    return torch.optim.Adam(settings, lr=schedule.learning_rate)


def make_adversary(detector: VggWeakDetector, recipe: MistRecipe | OicrRecipe) -> Adversary | None:
    """The drop block's own training, where the recipe has one."""
    if not isinstance(recipe, MistRecipe) or recipe.drop_block is None:
        return None
    settings: DropBlockSettings = recipe.drop_block
    members = [item for name, item in detector.named_parameters() if name.startswith(_ADVERSARY)]
    optimizer = torch.optim.Adam(members, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = LearningRateSchedule(
        iterations=recipe.schedule.steps,
        milestones=settings.milestones,
        gamma=settings.decay,
        warmup_iterations=settings.warmup_iterations,
        warmup_factor=ADVERSARY_WARMUP_FACTOR,
    )
    return Adversary(optimizer, schedule, detector.adversarial_loss)
