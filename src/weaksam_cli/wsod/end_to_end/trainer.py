"""Steps of many large images, a few in memory at a time, and the adversary that hides what the detector sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_cli.training.batches import step_seed
from weaksam_cli.training.loop import ResumableTrainer, TrainingSettings
from weaksam_cli.training.schedule import LearningRateSchedule


@dataclass(frozen=True)
class Adversary:
    """A part of the model that is trained against the rest, after every step of the rest (spec 04 §A.4).

    Attributes:
        optimizer: over its parameters.
        schedule: of its learning rate.
        loss: of some images; what it makes small. It should give gradient to these parameters alone: that of others costs
            time and memory and is thrown away.
    """

    optimizer: torch.optim.Optimizer
    schedule: LearningRateSchedule
    loss: Callable[[Sequence[Any]], Tensor]


class AccumulatingTrainer(ResumableTrainer):
    """A step whose gradients add up over parts of its batch; the losses are means over all its images.

    Args:
        model, data_loader, optimizer, settings: see `ResumableTrainer`.
        pictures_at_once: at most so many images a part.
        adversary: trained after each step, on the same images.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        settings: TrainingSettings,
        *,
        images_at_once: int,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer, settings)
        self.images_at_once = images_at_once
        self.adversary = adversary
        if adversary is not None:
            for group in adversary.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def run_step(self) -> None:
        """One step of the detector, then one of the adversary."""
        data = next(self._data_loader_iter)
        torch.manual_seed(step_seed(self.settings.seed, self.iter))
        parts = [
            data[start : start + self.images_at_once] for start in range(0, len(data), self.images_at_once)
        ]
        self.model.zero_grad()
        self._record(self._accumulate(parts, len(data)))
        self._step(self.optimizer)
        if self.adversary is not None:
            self._step_adversary(self.adversary, parts, len(data))
        self.scaler.update()

    def optimizer_state(self) -> dict[str, Any]:
        """The detector's and the adversary's."""
        adversary = {} if self.adversary is None else self.adversary.optimizer.state_dict()
        return {"detector": self.optimizer.state_dict(), "adversary": adversary}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """See `optimizer_state`."""
        self.optimizer.load_state_dict(state["detector"])
        if self.adversary is not None:
            self.adversary.optimizer.load_state_dict(state["adversary"])

    def _accumulate(self, parts: Sequence[Sequence[Any]], images: int) -> dict[str, Tensor]:
        """Gradients of the mean losses over the batch; returns these losses."""
        means: dict[str, Tensor] = {}
        for part in parts:
            share = len(part) / images
            with self._autocast():
                losses = self._forward(part)
                total = torch.stack([value.sum() for value in losses.values()]).sum() * share
            if total.requires_grad:  # a part may leave nothing to learn from
                self.scaler.scale(total).backward()
            for name, value in losses.items():
                means[name] = means.get(name, value.new_zeros(())) + value.detach() * share
        return means

    def _step_adversary(self, adversary: Adversary, parts: Sequence[Sequence[Any]], images: int) -> None:
        factor = adversary.schedule.factor(self.iter)
        for group in adversary.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.model.zero_grad()
        for part in parts:
            with self._autocast():
                loss = adversary.loss(part) * (len(part) / images)
            if loss.requires_grad:
                self.scaler.scale(loss).backward()
        self._step(adversary.optimizer)
        self.model.zero_grad()

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step, where any gradient came: the loss scaler refuses an optimiser that saw none."""
        members = [item for group in optimizer.param_groups for item in group["params"]]
        if any(item.grad is not None for item in members):
            self.scaler.step(optimizer)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", dtype=torch.float16, enabled=self.settings.mixed_precision)
