"""The training of a class-token transformer on image-level labels, in the loop that all trainings share (spec 01 §a.3)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor

from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.cam.class_tokens.images import Plan, Shown, TrainingImages
from weaksam_cli.cam.class_tokens.method import FitSettings, TrainingSettings
from weaksam_cli.cam.class_tokens.start import start_network
from weaksam_cli.data.labels import Labels
from weaksam_cli.engine.context import Job
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.network import ClassTokenVit
from weaksam_cli.training.loop import LearningRateSchedule, Training, TrainingRun, train, training_run

_REFERENCE_BATCH: Final = 512
"""The batch that learning rates are given for."""
_WITHOUT_DECAY: Final = ("pos_embed", "cls_token")
_MOST_LOADERS: Final = 16


def fit_and_write(
    settings: TrainingSettings, labels: Labels, keys: Sequence[str], initial: Path | None, job: Job
) -> Outcome:
    """Train a network, going on from the checkpoint of a training that was stopped, and write it.

    Args:
        settings: what to train.
        labels: of the training split.
        keys: the images that are learnt from.
        initial: the file of initial weights; None for random ones.
        job: where the network goes.
    """
    context, fit_settings = job.context, settings.fit
    network, line = start_network(settings, len(labels.class_names), initial, context.seed)
    say = context.console.warn if initial is None else context.console.info
    say(line)
    images = TrainingImages(labels, keys, fit_settings, context.seed)
    iterations = Plan.of(images).steps * fit_settings.total_epochs
    with training_run(job, iterations, most_workers=_MOST_LOADERS) as run:
        best = fit(network, images, run)
    context.console.info(
        f"kept the network of epoch {best.epochs} of {fit_settings.total_epochs}: training mAP {best.value:.3f} "
        "(image-wise, no boxes)",
        epoch=best.epochs,
        criterion=best.value,
    )
    context.ops.write_atomically(job.path, best.to_bytes(labels.class_names))
    failed = tuple((keys[index], why) for index, why in sorted(best.failed.items()))
    return Outcome(len(keys) - len(failed), failed)


@dataclass
class Best:
    """The network that is kept: the best epoch's, of equal ones the last.

    Attributes:
        value: its criterion, 0 to 1; see `image_wise_map`.
        epochs: how many epochs it has learnt.
        state: copy of its state dict, on the CPU.
        failed: index of an image that could not be read when the network was looked at last -> why.
    """

    value: float = -1.0
    epochs: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return dict(self.__dict__)

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        self.__dict__.update(state)

    def to_bytes(self, class_names: Sequence[str]) -> bytes:
        """The network as `VitCheckpoint.read` reads it, like the published files."""
        buffer = io.BytesIO()
        values = {"model": self.state, "class_names": list(class_names), "epoch": self.epochs}
        torch.save({**values, "training_map": self.value}, buffer)
        return buffer.getvalue()


def fit(network: ClassTokenVit, images: TrainingImages, run: TrainingRun) -> Best:
    """Train a network in place, going on from the checkpoint where there is one.

    Args:
        network: initialised.
        images: at least one.
        run: where, and from which seed.

    Returns:
        The network of the best epoch.

    Raises:
        DivergedError: a loss or a weight became NaN or infinite.
        UserError: no image can be read; the checkpoint is damaged or of another training.
    """
    settings, plan, best = images.settings, Plan.of(images), Best()
    network.to(run.device).set_drop_path(settings.drop_path)
    schedule = schedule_of(settings, plan)
    optimizer = make_optimizer(network, settings.weight_decay, peak_rate(settings, plan))
    targets = torch.from_numpy(images.targets.astype(np.float32))

    def step(training: Training, batch: tuple[Shown, Iterator[Shown]]) -> dict[str, float]:
        shown, whole = batch
        network.train()
        network.zero_grad()
        losses: dict[str, float] = {}
        if (views := shown.views) is not None:
            wanted = targets[shown.indexes]

            def losses_of(part: range) -> dict[str, Tensor]:
                rows = slice(part.start, part.stop)
                return soft_margins(network(views[rows].to(run.device)), wanted[rows].to(run.device))

            losses = training.backward(range(len(views)), losses_of)
        training.update(optimizer)  # where no image of this process can be read, others may have gradients
        if plan.is_examined(settings, training.iteration):
            with training.autocast():
                _examine(network, images, whole, (training.iteration + 1) // plan.steps, best)
        return losses

    mixed = settings.mixed_precision and run.device != "cpu"
    at_once = settings.images_at_once
    training = Training(network, optimizer, run, mixed_precision=mixed, images_at_once=at_once)
    train(training, images.batches(run.workers, run.processes), schedule, step=step, extras={"best": best})
    return best


def schedule_of(settings: FitSettings, plan: Plan) -> LearningRateSchedule:
    """A linear rise, half a cosine over all epochs, then the least rate: a constant rate for each epoch, as timm has it.

    A peak below the fixed rates, as of a tiny batch, lowers them to itself; the rise takes at most half of the epochs.
    """
    peak = peak_rate(settings, plan)
    return LearningRateSchedule(
        iterations=settings.total_epochs * plan.steps,
        warmup_iterations=min(settings.warmup_epochs, settings.epochs // 2) * plan.steps,
        warmup_factor=min(settings.warmup_rate / peak, 1.0),
        warmup_to_peak=True,
        cosine=True,
        least=min(settings.least_rate / peak, 1.0),
        cooldown_iterations=settings.cooldown_epochs * plan.steps,
        period=plan.steps,
    )


def peak_rate(settings: FitSettings, plan: Plan) -> float:
    """The learning rate after the rise, proportional to the batch."""
    return settings.learning_rate * plan.batch_size / _REFERENCE_BATCH


def make_optimizer(network: ClassTokenVit, weight_decay: float, rate: float) -> torch.optim.AdamW:
    """AdamW over all parameters that learn; positions, class tokens, biases and norms do not decay."""
    groups = param_groups_weight_decay(network, weight_decay, no_weight_decay_list=_WITHOUT_DECAY)
    return torch.optim.AdamW(groups, lr=rate)


def soft_margins(logits: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """The losses by name: for each of a network's logits the multi-label soft margin, all of the same weight.

    Args:
        logits: name -> (B, C) of any precision; computed in float32.
        targets: float32 (B, C), 0 or 1.

    Returns:
        float32 scalars: means over images and classes of the cross-entropy of independent sigmoids.
    """
    return {
        name: F.binary_cross_entropy_with_logits(value.float(), targets) for name, value in logits.items()
    }


@torch.no_grad()
def _examine(
    network: ClassTokenVit, images: TrainingImages, whole: Iterable[Shown], epochs: int, best: Best
) -> None:
    """See how well a network classifies the training images, and keep it in `best` when none was better.

    Raises:
        UserError: no image can be read.
    """
    network.eval()
    scores = np.zeros(images.targets.shape, np.float32)
    failed: dict[int, str] = {}
    for shown in whole:
        failed |= shown.failed
        if shown.views is not None:
            parts = shown.views.split(images.settings.images_at_once or len(shown.views))
            logits = [network.encode(part.to(network.cls_token.device)).class_logits() for part in parts]
            scores[shown.indexes] = torch.cat(logits).float().cpu().numpy()
    if len(failed) == len(images):
        raise UserError(f"no training image can be read; {images.keys[0]}: {failed[0]}", where="training")
    readable = [index for index in range(len(images)) if index not in failed]
    value = image_wise_map(scores[readable], images.targets[readable])
    best.failed = failed
    if value >= best.value:
        best.value, best.epochs = value, epochs
        best.state = {name: item.detach().cpu().clone() for name, item in network.state_dict().items()}


def image_wise_map(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Mean over the images of the average precision with which an image's own classes are ranked first.

    The published code picks a checkpoint by it, on validation images (spec 01 §a.3).

    Args:
        scores: float32 (n, C).
        labels: bool (n, C); images without any class are left out.

    Returns:
        0 to 1; of equal scores the wrong class comes first. 0 when no image has a class.
    """
    precisions = []
    for row, truth in zip(scores, labels, strict=True):
        if truth.any():
            order = np.lexsort((truth, -row))
            ranks = np.flatnonzero(truth[order]) + 1
            precisions.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
    return float(np.mean(precisions)) if precisions else 0.0
