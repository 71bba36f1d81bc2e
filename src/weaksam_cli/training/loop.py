"""The training loop: it can be stopped at any moment and goes on to the same weights.

Nothing that an iteration does depends on what ran before it in the process: the batch, the augmentation, torch's random
numbers and the learning rate are functions of (seed, iteration); weights, moments and loss scale are in the checkpoint.
On a CPU with the same number of threads a resumed run ends in the same bytes; CUDA's RoIAlign adds in no fixed order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from weaksam_cli.engine.context import Job
from weaksam_cli.engine.predictors import one_thread
from weaksam_cli.engine.processes import ALONE, Processes
from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import Batches, step_seed
from weaksam_cli.training.checkpoint import Checkpoint, SaveBytes, read_checkpoint
from weaksam_cli.training.gradients import average_gradients
from weaksam_cli.training.metrics import METRICS_FILE, LossLog, tensorboard_rows

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each iteration with the number of finished ones, the total, and the iteration's losses by name."""

LossFunction = Callable[[Any], Mapping[str, Tensor]]
"""From a batch to scalar losses by name; they are trained by their sum."""


@dataclass(frozen=True)
class LearningRateSchedule:
    """Factor on the learning rate, a function of the iteration: a linear warm-up, then steps or half a cosine.

    The defaults equal detectron2's; timm's rates hold for an epoch.

    Attributes:
        iterations: length of the training.
        milestones: iterations at which the factor is multiplied by `gamma`; not used with `cosine`.
        gamma: factor of a step.
        warmup_iterations: length of the linear rise.
        warmup_factor: factor on the first value, where the rise begins.
        warmup_to_peak: the rise ends at 1 (timm) and not at the value that the cosine has reached by then (detectron2).
        cosine: fall to `least` along half a cosine.
        least: where the cosine ends, and the factor of the `cooldown_iterations` that follow it at the end.
        cooldown_iterations: they belong to `iterations`.
        period: iterations for which a rate holds: 1, or those of an epoch (timm).
    """

    iterations: int
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    warmup_iterations: int = 0
    warmup_factor: float = 0.001
    warmup_to_peak: bool = False
    cosine: bool = False
    least: float = 0.0
    cooldown_iterations: int = 0
    period: int = 1

    def factor(self, iteration: int) -> float:
        """Factor for a 0-based iteration."""
        iteration -= iteration % self.period
        warmup = min(self.warmup_iterations, self.iterations)
        if iteration >= warmup:
            return self._decayed(iteration)
        start = self.warmup_factor * self._decayed(0)
        end = self._decayed(0 if self.warmup_to_peak else warmup)
        return start + (end - start) * iteration / warmup

    def _decayed(self, iteration: int) -> float:
        if not self.cosine:
            return float(self.gamma ** bisect_right(list(self.milestones), iteration))
        length = self.iterations - self.cooldown_iterations
        if iteration >= length:
            return self.least
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * iteration / length)) / 2


class DivergedError(UserError):
    """A loss or a weight became NaN or infinite."""


class Stateful(Protocol):
    """What a checkpoint keeps beside model and optimiser: another optimiser, the best network so far."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Go on from what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class TrainingRun:
    """How a training runs: nothing here but the seed changes its result.

    Attributes:
        device: `cpu`, `cuda` or `cuda:k`.
        seed: decides everything that is random.
        checkpoint: where the checkpoint lies; it is read to resume and replaced as the training goes on.
        fingerprint: what decides the result besides the code (recipe, inputs); a checkpoint with another is refused.
        save_bytes: writes the checkpoint atomically.
        progress: called after each iteration, and once at the start of a resumed training with no losses.
        workers: threads that load batches ahead.
        checkpoint_every: iterations between checkpoints; the last iteration always writes one.
        losses: what they were, kept in the checkpoint.
        metadata: kept there, too: what the finished model's file will tell of itself, in plain values.
        processes: that train together, each on its share of a batch; their number changes nothing but rounding.
    """

    device: str
    seed: int
    checkpoint: Path
    fingerprint: str
    save_bytes: SaveBytes
    progress: Progress = lambda *_: None
    workers: int = 0
    checkpoint_every: int = 100
    losses: LossLog = field(default_factory=LossLog)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    processes: Processes = ALONE


@contextmanager
def training_run(job: Job, iterations: int, *, most_workers: int = 0) -> Iterator[TrainingRun]:
    """The run of a job of so many iterations, its progress shown; on a GPU at most `most_workers` threads load batches.

    When it ends, its losses are written beside the artifact.

    Inside, a CPU computes with one thread: the same weights on every machine, and on shared cores faster than threads
    that wait for each other.
    """
    context, device = job.context, job.context.torch_device()
    folder = context.tensorboard if context.processes.leads else None
    curves = folder / job.path.parent.name if folder else None
    with (
        one_thread(),
        tensorboard_rows(curves) as show,
        context.console.progress("training", iterations, "iterations") as bar,
    ):
        done = 0

        def progress(iteration: int, _: int, losses: dict[str, float]) -> None:
            nonlocal done
            note = f"loss {sum(losses.values()):.3f}" if losses else f"resumed at iteration {iteration}"
            bar.advance(iteration - done, note)
            done = iteration

        run = TrainingRun(
            device=device,
            seed=context.seed,
            checkpoint=job.checkpoint,
            fingerprint=job.identity.key(),
            save_bytes=context.ops.write_atomically,
            progress=progress,
            workers=0 if device == "cpu" else min(context.workers, most_workers),
            checkpoint_every=context.checkpoint_every,
            losses=LossLog(show),
            processes=context.processes,
        )
        yield run
    context.ops.write_atomically(job.path.with_name(METRICS_FILE), run.losses.to_bytes())


class Training:
    """A training while it runs: what a step function works with.

    Args:
        gradient_clip: largest norm of the gradient, 0 does not clip.
        mixed_precision: float16 on CUDA.
        images_at_once: gradients add up over parts of so many images of a batch; 0 takes the whole batch.

    Attributes:
        model: on its device; for the usual step it returns a dict of scalar losses for a batch.
        optimizer: over the model's parameters; its learning rates are those after the warm-up.
        run: where it takes place, and from which seed.
        iteration: the 0-based one that is being done.
        figures: what a step tells besides its losses; kept in the log.

    Raises:
        UserError: mixed precision on a CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        run: TrainingRun,
        *,
        gradient_clip: float = 0.0,
        mixed_precision: bool = False,
        images_at_once: int = 0,
    ) -> None:
        if mixed_precision and next(model.parameters()).device.type != "cuda":
            raise UserError(
                "mixed precision needs a CUDA device",
                where="mixed_precision",
                remedy="Set it to false or use --device cuda",
            )
        self.model, self.optimizer, self.run = model, optimizer, run
        self.iteration = self.saved = 0
        self.figures: dict[str, float] = {}
        self.scaler = torch.amp.GradScaler("cuda", enabled=mixed_precision)
        self._clip, self._images_at_once = gradient_clip, images_at_once
        self._stepped = False

    def autocast(self) -> torch.autocast:
        """float16 where the training is of mixed precision."""
        return torch.autocast("cuda", dtype=torch.float16, enabled=self.scaler.is_enabled())

    def backward(self, batch: Any, loss_function: LossFunction) -> dict[str, float]:
        """Add the gradients of a batch's losses, `images_at_once` at a time; of several processes, those of its share.

        Returns:
            The losses by name, means over the batch.

        Raises:
            DivergedError: one of them is NaN or infinite.
        """
        means: dict[str, Tensor] = {}
        size = self._images_at_once or max(len(batch), 1)
        first = self.run.processes.rank * len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            share = len(part) / len(batch)
            if first + start:
                torch.manual_seed(step_seed(self.run.seed, self.iteration, first + start))
            with self.autocast():
                losses = self._losses(part, loss_function)
                values = [value.sum() for value in losses.values()]
                total = torch.stack(values).sum() * share if values else None
            if total is not None and total.requires_grad:  # a part may leave nothing to learn from
                self.scaler.scale(total).backward()
            for name, value in losses.items():
                means[name] = means.get(name, value.new_zeros(())) + value.detach() * share
        shown = {name: float(value) for name, value in means.items()}
        bad = [name for name, value in shown.items() if not math.isfinite(value)]
        if bad:
            raise self._diverged(", ".join(bad))
        return shown

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients and step, where any came: the loss scaler refuses an optimiser that saw none."""
        members = [item for group in optimizer.param_groups for item in group["params"]]
        if self.run.processes.count > 1:
            average_gradients(members, self.run.processes.count)
        if all(item.grad is None for item in members):
            return
        if self._clip > 0:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(members, self._clip)
        self.scaler.step(optimizer)
        self._stepped = True

    def _losses(self, part: Any, loss_function: LossFunction) -> Mapping[str, Tensor]:
        try:
            return loss_function(part)
        except FloatingPointError as error:  # detectron2's proposal network looks at its own outputs
            raise self._diverged("what the network computes") from error

    def finish_iteration(self) -> None:
        """Adapt the loss scale once an iteration, whatever number of optimisers stepped."""
        if self._stepped:
            self.scaler.update()
        self._stepped = False

    def check_weights(self) -> None:
        """Refuse weights that a gradient without bounds has spoilt, so that a checkpoint is always good.

        Raises:
            DivergedError: a weight is NaN or infinite.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                raise self._diverged(f"weight {name}")

    def _diverged(self, what: str) -> DivergedError:
        last = "no checkpoint had been written yet"
        if self.saved:
            last = f"the last good checkpoint is {self.run.checkpoint} (iteration {self.saved})"
        return DivergedError(
            f"{what} became NaN or infinite at iteration {self.iteration}",
            where="training",
            remedy=f"Lower the learning rate or lengthen the warm-up; {last}",
        )


Step = Callable[[Training, Any], dict[str, float]]
"""One iteration on a batch; returns the losses that are shown. It depends on weights, batch and iteration alone."""


def optimizer_step(training: Training, batch: Any) -> dict[str, float]:
    """The usual step: the model gives the losses of a batch, the optimiser follows their gradient."""
    training.model.zero_grad()
    losses = training.backward(batch, training.model)
    training.update(training.optimizer)
    return losses


def set_rates(optimizer: torch.optim.Optimizer, schedule: LearningRateSchedule, iteration: int) -> None:
    """Each group's learning rate is the one it was made with (`initial_lr`) times the schedule's factor."""
    factor = schedule.factor(iteration)
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def train(
    training: Training,
    batches: Batches,
    schedule: LearningRateSchedule,
    *,
    step: Step = optimizer_step,
    extras: Mapping[str, Stateful] | None = None,
) -> None:
    """Train a model in place, from its checkpoint where there is one.

    Args:
        training: the model, its optimiser, and where they are trained.
        batches: from the first iteration and the end to the batches between; a batch is a pure function of its iteration.
        schedule: length and learning rates.
        step: what an iteration does.
        extras: name -> what the checkpoint keeps besides.

    Raises:
        UserError: the checkpoint is damaged or of another training.
        DivergedError: a loss or a weight became NaN or infinite; it names the iteration and the last good checkpoint.
    """
    run, extras, total = training.run, extras or {}, schedule.iterations
    set_rates(training.optimizer, schedule, 0)
    start = _resume(training, extras, total)
    if start >= total:
        return
    training.model.train()
    with closing(batches(start, total)) as stream:
        for training.iteration, batch in zip(range(start, total), stream, strict=True):
            set_rates(training.optimizer, schedule, training.iteration)
            torch.manual_seed(step_seed(run.seed, training.iteration))
            training.figures = {}
            losses = step(training, batch)
            training.finish_iteration()
            done = training.iteration + 1
            rate = training.optimizer.param_groups[0]["lr"]
            run.losses.record(done, losses, rate, last=done == total, figures=training.figures)
            if done % run.checkpoint_every == 0 or done == total:
                _save(training, extras)
            run.progress(done, total, losses)


def _resume(training: Training, extras: Mapping[str, Stateful], total: int) -> int:
    """Load the checkpoint where there is one; the first iteration that is left to do."""
    run = training.run
    checkpoint = read_checkpoint(run.checkpoint, run.fingerprint)
    if checkpoint is None:
        return 0
    training.model.load_state_dict(checkpoint.model)
    training.optimizer.load_state_dict(checkpoint.optimizer)
    if training.scaler.is_enabled():
        training.scaler.load_state_dict(checkpoint.scaler)
    for name, item in extras.items():
        item.load_state_dict(checkpoint.extras[name])
    run.losses.load_state_dict(checkpoint.losses)
    training.saved = checkpoint.iteration
    run.progress(checkpoint.iteration, total, {})
    return checkpoint.iteration


def _save(training: Training, extras: Mapping[str, Stateful]) -> None:
    training.check_weights()
    checkpoint = Checkpoint(
        iteration=training.iteration + 1,
        model=training.model.state_dict(),
        optimizer=training.optimizer.state_dict(),
        scaler=training.scaler.state_dict(),
        fingerprint=training.run.fingerprint,
        extras={name: item.state_dict() for name, item in extras.items()},
        losses=training.run.losses.state_dict(),
        metadata=dict(training.run.metadata),
    )
    training.run.save_bytes(training.run.checkpoint, checkpoint.to_bytes())
    training.saved = checkpoint.iteration
