"""The training loop: it can be stopped at any moment, and on a CPU goes on to the same bytes.

Batch, views, stochastic depth and learning rate of a step are functions of (seed, epoch, step); weights, moments, loss scale
and the best network so far are in the checkpoint, which is replaced after every epoch that is not very short.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from weaksam_cli.cam.vit_training.criterion import image_wise_map
from weaksam_cli.cam.vit_training.loss import training_losses
from weaksam_cli.cam.vit_training.schedule import LearningRates, make_optimizer
from weaksam_cli.cam.vit_training.settings import FitSettings
from weaksam_cli.cam.vit_training.training_images import Batch, Plan, TrainingImages, batches
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.mctformer import MCTformer
from weaksam_cli.models.vit.weaktr import WeakTr
from weaksam_cli.training.batches import step_seed
from weaksam_cli.training.checkpoint import Checkpoint, SaveBytes, read_checkpoint

_REMEDY: Final = "Lower fit.learning_rate or lengthen fit.warmup_epochs (--set)"

OnEpoch = Callable[[int, str], None]
"""Called with the number of finished epochs and a note about the last of them."""


class TrainingDivergedError(UserError):
    """A loss or a weight became NaN or infinite."""


@dataclass(frozen=True)
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
    state: Mapping[str, Tensor] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """How a training runs, apart from what decides its result.

    Attributes:
        device: `cpu`, `cuda` or `cuda:k`.
        seed: decides orders, views and stochastic depth.
        workers: processes that load images ahead; 0 for none.
        checkpoint: where the checkpoint lies; read to resume.
        fingerprint: what decides the result besides the code; a checkpoint with another is refused.
        save_bytes: writes the checkpoint atomically.
        on_epoch: see `OnEpoch`; called once at the start of a resumed run.
        checkpoint_seconds: after an epoch that ends earlier than this after the last checkpoint none is written.
    """

    device: str
    seed: int
    workers: int
    checkpoint: Path
    fingerprint: str
    save_bytes: SaveBytes
    on_epoch: OnEpoch
    checkpoint_seconds: float = 10.0


class _Trainer:
    """One training; what changes in it besides the network."""

    def __init__(
        self, network: WeakTr | MCTformer, images: TrainingImages, settings: FitSettings, course: Course
    ) -> None:
        n_images = len(images)
        batch_size = min(settings.batch_size, n_images)
        self.network, self.images = network.to(course.device), images
        self.settings, self.course = settings, course
        self.plan = Plan(n_images, batch_size, course.seed)
        self.rates = LearningRates.of(settings, batch_size)
        self.labels = images.targets()
        self.targets = torch.from_numpy(self.labels.astype(np.float32))
        self.mixed = settings.mixed_precision and course.device != "cpu"
        self.optimizer = make_optimizer(network, settings.weight_decay)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.mixed)
        self.best, self.done, self.saved_at = Best(), 0, time.monotonic()
        network.set_drop_path(settings.drop_path)

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            UserError: it is damaged or of another training.
        """
        found = read_checkpoint(self.course.checkpoint, self.course.fingerprint)
        if found is None:
            return
        self.network.load_state_dict(found.model["network"])
        self.optimizer.load_state_dict(found.optimizer)
        if self.mixed:
            self.scaler.load_state_dict(found.scaler)
        self.best, self.done = Best(**found.model["best"]), found.iteration
        self.course.on_epoch(self.done, f"resumed after epoch {self.done}")

    def run(self) -> Best:
        """All epochs that are left."""
        total = self.settings.total_epochs
        left = range(self.done, total)
        stream = batches(self.images, self.plan, left, self.course.workers) if left else iter(())
        for epoch in left:
            note = f"loss {self._learn(epoch, stream):.3f}"
            self._check_weights(epoch)
            if self.settings.is_examined(epoch):
                note += f", training mAP {self._examine(epoch, stream):.3f}"
            self.done = epoch + 1
            if self.done == total or time.monotonic() - self.saved_at >= self.course.checkpoint_seconds:
                self._save()
            self.course.on_epoch(self.done, note)
        return self.best

    def _examine(self, epoch: int, stream: Iterator[Batch]) -> float:
        """The criterion after an epoch; keeps the network when none was better."""
        scores, failed = self._score(stream)
        readable = [index for index in range(len(self.images)) if index not in failed]
        value = image_wise_map(scores[readable], self.labels[readable])
        if value >= self.best.value:
            self.best = Best(value, epoch + 1, self._copy_of_state())
        self.best = replace(self.best, failed=failed)
        return value

    def _learn(self, epoch: int, stream: Iterator[Batch]) -> float:
        """The steps of one epoch; mean of their losses."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates.rate(epoch)
        losses = []
        for step in range(self.plan.steps):
            batch = next(stream)
            if batch.views is not None:
                torch.manual_seed(step_seed(self.course.seed, epoch * self.plan.steps + step))
                losses.append(self._step(batch.views, self.targets[batch.indexes], epoch, step))
        return float(np.mean(losses)) if losses else 0.0

    def _step(self, views: Tensor, targets: Tensor, epoch: int, step: int) -> float:
        views, targets = views.to(self.course.device), targets.to(self.course.device)
        with self._autocast():
            losses = training_losses(self.network(views), targets)
        total = torch.stack([*losses.values()]).sum()
        value = float(total.detach())
        if not math.isfinite(value):
            bad = [name for name, item in losses.items() if not bool(torch.isfinite(item))]
            raise self._diverged(f"the loss of {', '.join(bad)}", f"epoch {epoch + 1}, step {step + 1}")
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value

    @torch.no_grad()
    def _score(self, stream: Iterator[Batch]) -> tuple[Any, dict[int, str]]:
        """Class-token logits float32 (n, C) of all images as they are, and those that could not be read."""
        self.network.eval()
        scores = np.zeros(self.labels.shape, np.float32)
        failed: dict[int, str] = {}
        for _ in range(self.plan.whole_batches):
            batch = next(stream)
            failed |= batch.failed
            if batch.views is not None:
                with self._autocast():
                    logits = self.network.encode(batch.views.to(self.course.device)).class_logits()
                scores[batch.indexes] = logits.float().cpu().numpy()
        if len(failed) == len(self.images):
            raise UserError(
                f"no training image can be read; {self.images.keys[0]}: {failed[0]}", where="training"
            )
        return scores, failed

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.float16, enabled=self.mixed)

    def _check_weights(self, epoch: int) -> None:
        for name, parameter in self.network.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise self._diverged(f"weight {name}", f"epoch {epoch + 1}")

    def _diverged(self, what: str, when: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"{what} became NaN or infinite in {when}", where="training", remedy=_REMEDY
        )

    def _copy_of_state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def _save(self) -> None:
        best = {"value": self.best.value, "epochs": self.best.epochs, "state": dict(self.best.state)}
        checkpoint = Checkpoint(
            iteration=self.done,
            model={"network": self.network.state_dict(), "best": best | {"failed": dict(self.best.failed)}},
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            fingerprint=self.course.fingerprint,
        )
        self.course.save_bytes(self.course.checkpoint, checkpoint.to_bytes())
        self.saved_at = time.monotonic()


def fit(network: WeakTr | MCTformer, images: TrainingImages, settings: FitSettings, course: Course) -> Best:
    """Train a network in place, going on from the checkpoint where there is one.

    Args:
        network: initialised.
        images: at least one.
        settings: what decides the result.
        course: how it runs.

    Returns:
        The network of the best epoch.

    Raises:
        TrainingDivergedError: a loss or a weight became NaN or infinite.
        UserError: no image can be read; the checkpoint is damaged or of another training.
    """
    trainer = _Trainer(network, images, settings, course)
    trainer.resume()
    return trainer.run()
