"""AdamW and its learning rates, a constant one for each epoch, as timm has them (spec 01 §a.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from weaksam_cli.cam.vit_training.settings import FitSettings

REFERENCE_BATCH: Final = 512
"""The batch that learning rates are given for."""
_WITHOUT_DECAY: Final = ("pos_embed", "cls_token")


@dataclass(frozen=True)
class LearningRates:
    """A linear rise, then half a cosine over all epochs, then the least rate.

    Attributes:
        peak: where the cosine begins.
        first: rate of the first epoch of the rise.
        least: rate after the cosine.
        warmup_epochs: length of the rise; the cosine has fallen for as long when it takes over.
        epochs: length of rise and cosine together.
    """

    peak: float
    first: float
    least: float
    warmup_epochs: int
    epochs: int

    @classmethod
    def of(cls, settings: FitSettings, batch_size: int) -> LearningRates:
        """The rates of a training with batches of that size.

        A peak below the fixed rates, as of a tiny batch, lowers them to itself; the rise takes at most half of the epochs.
        """
        peak = settings.learning_rate * batch_size / REFERENCE_BATCH
        return cls(
            peak=peak,
            first=min(settings.warmup_rate, peak),
            least=min(settings.least_rate, peak),
            warmup_epochs=min(settings.warmup_epochs, settings.epochs // 2),
            epochs=settings.epochs,
        )

    def rate(self, epoch: int) -> float:
        """Learning rate of a 0-based epoch."""
        if epoch < self.warmup_epochs:
            return self.first + (self.peak - self.first) * epoch / self.warmup_epochs
        if epoch >= self.epochs:
            return self.least
        return self.least + (self.peak - self.least) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


def make_optimizer(network: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over all parameters that learn; positions, class tokens, biases and norms do not decay.

    Rates are set every epoch.
    """
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim <= 1 or name in _WITHOUT_DECAY
        (others if plain else decaying).append(parameter)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups)
