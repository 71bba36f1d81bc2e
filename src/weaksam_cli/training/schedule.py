"""Learning rates as pure functions of the iteration, equal to detectron2's `build_lr_scheduler`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRateSchedule:
    """Factor on the learning rate: a linear warm-up, then steps or half a cosine.

    Attributes:
        iterations: length of the training.
        milestones: iterations at which the factor is multiplied by `gamma`; not used with `cosine`.
        gamma: factor of a step.
        warmup_iterations: length of the linear rise to the value that the schedule has there.
        warmup_factor: factor on the first value, where the rise begins.
        cosine: fall to zero at the end along half a cosine.
    """

    iterations: int
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    warmup_iterations: int = 0
    warmup_factor: float = 0.001
    cosine: bool = False

    def factor(self, iteration: int) -> float:
        """Factor for a 0-based iteration."""
        warmup = min(self.warmup_iterations, self.iterations)
        if iteration >= warmup:
            return self._decayed(iteration)
        start, end = self.warmup_factor * self._decayed(0), self._decayed(warmup)
        return start + (end - start) * iteration / warmup

    def _decayed(self, iteration: int) -> float:
        if self.cosine:
            return 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return float(self.gamma ** bisect_right(list(self.milestones), iteration))
