"""Learning rates as pure functions of the iteration: detectron2's schedules, and timm's, whose rates hold for an epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRateSchedule:
    """Factor on the learning rate: a linear warm-up, then steps or half a cosine. The defaults equal detectron2's.

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
        start, end = (
            self.warmup_factor * self._decayed(0),
            self._decayed(0 if self.warmup_to_peak else warmup),
        )
        return start + (end - start) * iteration / warmup

    def _decayed(self, iteration: int) -> float:
        if not self.cosine:
            return float(self.gamma ** bisect_right(list(self.milestones), iteration))
        length = self.iterations - self.cooldown_iterations
        if iteration >= length:
            return self.least
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * iteration / length)) / 2
