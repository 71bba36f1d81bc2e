"""A training loop on detectron2's trainer and hooks that can be stopped at any moment and go on to the same weights.

Nothing that a step does depends on what ran before it in the process: the batch, the augmentation, torch's random
numbers and the learning rate are functions of (seed, iteration); weights, momentum and loss scale are in the checkpoint.
On a CPU with the same number of threads a resumed run ends in the same bytes; CUDA's RoIAlign adds in no fixed order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import BatchLoader, batches, step_seed
from weaksam_cli.training.checkpoint import Checkpoint, SaveBytes, read_checkpoint
from weaksam_cli.training.schedule import LearningRateSchedule

import_detectron2()

from detectron2.engine import HookBase, SimpleTrainer  # noqa: E402

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with the number of finished iterations, the total, and the step's losses by name."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes:
        schedule: length and learning rates.
        seed: decides torch's random numbers of every step.
        checkpoint: where the checkpoint lies; it is read to resume and replaced as the training goes on.
        checkpoint_period: iterations between checkpoints; the last iteration always writes one.
        fingerprint: what decides the result besides the code (recipe, inputs); a checkpoint with another is refused.
        gradient_clip: largest norm of the gradient, 0 does not clip.
        mixed_precision: float16 on CUDA.
        workers: threads that load batches ahead.
    """

    schedule: LearningRateSchedule
    seed: int
    checkpoint: Path
    checkpoint_period: int
    fingerprint: str
    gradient_clip: float = 0.0
    mixed_precision: bool = False
    workers: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """What a training did.

    Attributes:
        resumed_from: first iteration of this run; 0 for a fresh start, `iterations` when nothing was left to do.
        losses: the losses of the last step by name, averaged over the last 20 steps of this run; empty after no step.
        seconds: wall time of this run.
    """

    resumed_from: int
    losses: dict[str, float]
    seconds: float


class DivergedError(UserError):
    """A loss became NaN or infinite."""


class ResumableTrainer(SimpleTrainer):
    """detectron2's simple trainer with seeded steps, gradient clipping and mixed precision.

    Args:
        model: returns a dict of scalar losses for a batch.
        data_loader: an iterable of batches, beginning with that of the first iteration.
        optimizer: steps the model's parameters.
        settings: see `TrainingSettings`.
    """

    def __init__(
        self, model: nn.Module, data_loader: Any, optimizer: torch.optim.Optimizer, settings: TrainingSettings
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.settings = settings
        self.scaler = torch.amp.GradScaler("cuda", enabled=settings.mixed_precision)
        self.saved_iteration = 0
        self.last_losses: dict[str, float] = {}

    def run_step(self) -> None:
        """One optimiser step."""
        data = next(self._data_loader_iter)
        torch.manual_seed(step_seed(self.settings.seed, self.iter))
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.settings.mixed_precision):
            losses = self._forward(data)
            total = torch.stack([value.sum() for value in losses.values()]).sum()
        self._record(losses)
        self.optimizer.zero_grad()
        if total.requires_grad:  # a batch may leave nothing to learn from
            self._update(total)

    def _forward(self, data: Any) -> dict[str, Tensor]:
        try:
            losses: dict[str, Tensor] = self.model(data)
        except FloatingPointError as error:  # detectron2's proposal network looks at its own outputs
            raise self._diverged("the proposals") from error
        return losses

    def _update(self, total: Tensor) -> None:
        self.scaler.scale(total).backward()
        if self.settings.gradient_clip > 0:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _record(self, losses: dict[str, Tensor]) -> None:
        values = {name: float(value.detach()) for name, value in losses.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise self._diverged(", ".join(bad))
        self.last_losses = values
        self.storage.put_scalars(**values)

    def optimizer_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the optimiser."""
        return dict(self.optimizer.state_dict())

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Go on from what `optimizer_state` gave."""
        self.optimizer.load_state_dict(state)

    def check_weights(self) -> None:
        """Refuse weights that a gradient without bounds has spoilt, so that a checkpoint is always good.

        Raises:
            DivergedError: a weight is NaN or infinite.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                raise self._diverged(f"weight {name}")

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what} became NaN or infinite at iteration {self.iter}",
            where="training",
            remedy=f"Lower the learning rate or lengthen the warm-up; {self._last_good()}",
        )

    def _last_good(self) -> str:
        if self.saved_iteration == 0:
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is {self.settings.checkpoint} (iteration {self.saved_iteration})"


class LearningRateHook(HookBase):
    """Sets each group's learning rate to its `initial_lr` times the schedule's factor before every step."""

    def __init__(self, schedule: LearningRateSchedule) -> None:
        self.schedule = schedule

    def before_step(self) -> None:
        """Set the rates of this iteration."""
        factor = self.schedule.factor(self.trainer.iter)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.trainer.storage.put_scalar("learning_rate_factor", factor)


class CheckpointHook(HookBase):
    """Writes the checkpoint every `checkpoint_period` iterations and after the last."""

    def __init__(self, settings: TrainingSettings, save_bytes: SaveBytes) -> None:
        self.settings = settings
        self.save_bytes = save_bytes

    def after_step(self) -> None:
        """Write a checkpoint when it is due."""
        done = self.trainer.iter + 1
        if done % self.settings.checkpoint_period and done != self.trainer.max_iter:
            return
        trainer = self.trainer
        trainer.check_weights()
        checkpoint = Checkpoint(
            iteration=done,
            model=trainer.model.state_dict(),
            optimizer=trainer.optimizer_state(),
            scaler=trainer.scaler.state_dict(),
            fingerprint=self.settings.fingerprint,
        )
        self.save_bytes(self.settings.checkpoint, checkpoint.to_bytes())
        trainer.saved_iteration = done


class ProgressHook(HookBase):
    """Calls back after every step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def after_step(self) -> None:
        """Report the finished iteration."""
        self.progress(self.trainer.iter + 1, self.trainer.max_iter, dict(self.trainer.last_losses))


MakeTrainer = Callable[[nn.Module, Any, torch.optim.Optimizer, TrainingSettings], ResumableTrainer]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    load_batch: BatchLoader,
    settings: TrainingSettings,
    *,
    save_bytes: SaveBytes,
    progress: Progress | None = None,
    make_trainer: MakeTrainer = ResumableTrainer,
) -> TrainingResult:
    """Train `model` in place, from its checkpoint where there is one.

    Args:
        model: on its device; returns a dict of scalar losses for a batch.
        optimizer: over the model's parameters; its learning rates are those after the warm-up.
        load_batch: items of an iteration; a pure function of it.
        settings: see `TrainingSettings`.
        save_bytes: writes the checkpoint atomically.
        progress: called after each step, and once at the start of a resumed run with no losses.
        make_trainer: for steps of another kind.

    Raises:
        UserError: the checkpoint is damaged or of another training.
        DivergedError: a loss became NaN or infinite; it names the iteration and the last good checkpoint.
    """
    started = time.monotonic()
    _check_device(model, settings)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    total = settings.schedule.iterations
    checkpoint = read_checkpoint(settings.checkpoint, settings.fingerprint)
    start = 0 if checkpoint is None else checkpoint.iteration
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        if progress is not None:
            progress(start, total, {})
    if start >= total:
        return TrainingResult(start, {}, time.monotonic() - started)
    data = batches(load_batch, start, total, settings.workers)
    trainer = make_trainer(model, data, optimizer, settings)
    trainer.saved_iteration = start
    if checkpoint is not None:
        trainer.load_optimizer_state(checkpoint.optimizer)
        if settings.mixed_precision:
            trainer.scaler.load_state_dict(checkpoint.scaler)
    trainer.register_hooks(_hooks(settings, save_bytes, progress))
    try:
        trainer.train(start, total)
    finally:
        data.close()
    return TrainingResult(start, _recent_losses(trainer), time.monotonic() - started)


def _check_device(model: nn.Module, settings: TrainingSettings) -> None:
    if settings.mixed_precision and next(model.parameters()).device.type != "cuda":
        raise UserError(
            "mixed precision needs a CUDA device",
            where="mixed_precision",
            remedy="Set it to false or use --device cuda",
        )


def _hooks(settings: TrainingSettings, save_bytes: SaveBytes, progress: Progress | None) -> list[Any]:
    hooks: list[Any] = [LearningRateHook(settings.schedule), CheckpointHook(settings, save_bytes)]
    return hooks if progress is None else [*hooks, ProgressHook(progress)]


def _recent_losses(trainer: ResumableTrainer) -> dict[str, float]:
    histories = trainer.storage.histories()
    return {name: float(histories[name].avg(20)) for name in trainer.last_losses}
