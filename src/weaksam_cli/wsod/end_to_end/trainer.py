"""The adversary that hides what the detector sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weaksam_cli.training.loop import Step, Training, optimizer_step, set_rates
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

    def after(self, step: Step = optimizer_step) -> Step:
        """The step, then one of the adversary on the same images."""

        def both(training: Training, batch: Any) -> dict[str, float]:
            losses = step(training, batch)
            set_rates(self.optimizer, self.schedule, training.iteration)
            training.model.zero_grad()
            training.backward(batch, lambda part: {"adversary": self.loss(part)})
            training.update(self.optimizer)
            training.model.zero_grad()
            return losses

        return both
