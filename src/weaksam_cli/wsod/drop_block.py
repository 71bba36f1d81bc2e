"""Concrete DropBlock: a small network learns which cells of a RoI to hide, against the detector (spec 04 §A.4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam_cli.training.loop import LearningRateSchedule, Training, optimizer_step, set_rates
from weaksam_cli.wsod.detector import RegionDetector, make_optimizer
from weaksam_cli.wsod.mist import DropBlockSettings

_WARMUP_FACTOR: Final = 1 / 3

_EPSILON: Final = 1e-10
"""Added to probabilities inside the logarithm."""

_SMALLEST_DRAW: Final = 1e-7
"""Uniform draws stay this far from 0 and 1, where the noise would be infinite."""

_PUBLISHED_OUTPUTS: Final = 2
"""The published network has a second channel that nothing reads, but which counts in the fan-out of the first weights."""


def sample_drops(probabilities: Tensor, temperature: float) -> Tensor:
    """Draw 1 with the given probabilities and 0 otherwise, with the gradient of a Gumbel softmax (straight through).

    The softmax over two classes is the sigmoid of the difference, and the difference of two Gumbel draws is one
    logistic draw.

    Args:
        probabilities: any shape, 0 to 1.
        temperature: of the softmax; it shapes the gradient alone.

    Returns:
        0 or 1, same shape.
    """
    noise = torch.rand_like(probabilities).logit(eps=_SMALLEST_DRAW)
    odds = torch.log(probabilities + _EPSILON) - torch.log(1 - probabilities + _EPSILON)
    soft = ((odds + noise) / temperature).sigmoid()
    hard = (soft >= 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())


def block_mask(drops: Tensor, block: int) -> Tensor:
    """Cells to keep when a block is hidden around each drop.

    Args:
        drops: (R, h, w), 1 where a block has its centre, else 0.
        block: cells a side; odd.

    Returns:
        (R, h, w), 0 where hidden, else 1.
    """
    covered = F.max_pool2d(drops[:, None], block, stride=1, padding=block // 2)[:, 0]
    return 1 - covered


def masked(features: Tensor, mask: Tensor) -> Tensor:
    """Features with the hidden cells zeroed and the others scaled up by (cells) / (cells kept), over all RoIs together.

    Args:
        features: (R, C, h, w).
        mask: float32 (R, h, w), 0 where hidden, else 1; where all are hidden, the answer is 0 everywhere.

    Returns:
        (R, C, h, w), of the dtype of `features`.
    """
    scaled = mask * (mask.numel() / mask.sum().clamp(min=1))
    return features * scaled[:, None].to(features.dtype)


class ConcreteDropBlock(nn.Module):
    """Hides cells of pooled RoIs in training; in evaluation mode RoIs pass as they are.

    Gradient reaches the features through the product alone, and the mask network through the mask; but its weights are
    constants except where an `Adversary` trains them.

    Args:
        settings: see `DropBlockSettings`.
        channels: C of the pooled features.
    """

    def __init__(self, settings: DropBlockSettings, channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 3, padding=1, bias=False),
            nn.BatchNorm2d(1),
        )
        self.shortcut = nn.Conv2d(channels, 1, 1, bias=False)
        _initialise(self.residual[0], channels)
        _initialise(self.residual[3], _PUBLISHED_OUTPUTS)
        _initialise(self.shortcut, _PUBLISHED_OUTPUTS)
        self.requires_grad_(False)

    def probabilities(self, pooled: Tensor) -> Tensor:
        """Probability, float32 (R, h, w), that a cell of (R, C, h, w) is the centre of a hidden block, up to gamma."""
        features = pooled.detach()
        logits = self.residual(features) + self.shortcut(features)
        # float16 has no room for small probabilities.
        return logits[:, 0].float().sigmoid() * self.settings.gamma

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (R, C, h, w), in training masked and rescaled; R may be 0."""
        if not self.training or not len(pooled):
            return pooled
        drops = sample_drops(self.probabilities(pooled), self.settings.temperature)
        return masked(pooled, block_mask(drops, self.settings.block))


def _initialise(layer: nn.Module, outputs: int) -> None:
    """Kaiming's normal distribution for a convolution of so many outputs, by its fan-out."""
    assert isinstance(layer, nn.Conv2d)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (outputs * math.prod(layer.kernel_size))))


class Adversary:
    """Trains the mask network of a detector against the rest, after every step of the rest.

    Args:
        detector: whose heads have a `drop_block`.
        settings: of the mask network's training; its biases learn at their own rate and do not decay, as published.
        iterations: of the training.
    """

    def __init__(self, detector: RegionDetector, settings: DropBlockSettings, iterations: int) -> None:
        self._detector, self._weight = detector, settings.loss_weight
        self._mask_network = detector.heads.get_submodule("drop_block")
        with self.learning():
            self.optimizer = make_optimizer(self._mask_network, settings)
        self._schedule = LearningRateSchedule(
            iterations,
            milestones=settings.milestones,
            gamma=settings.decay,
            warmup_iterations=settings.warmup_iterations,
            warmup_factor=_WARMUP_FACTOR,
        )

    def step(self, training: Training, batch: Any) -> dict[str, float]:
        """The usual step of the detector, then one of the mask network on the same images."""
        losses = optimizer_step(training, batch)
        set_rates(self.optimizer, self._schedule, training.iteration)
        training.model.zero_grad()
        with self.learning():
            training.backward(batch, self.losses)
        training.update(self.optimizer)
        training.model.zero_grad()
        return losses

    def losses(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """What the mask network goes down: the negative, weighted sum of the detector's losses."""
        losses = self._detector(samples)
        return {"adversary": -self._weight * torch.stack(list(losses.values())).sum()}

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Inside, the mask network takes the gradient and everything else is constant; outside, the other way about."""
        others = [item for item in self._detector.parameters() if item.requires_grad]
        for item in others:
            item.requires_grad_(False)
        self._mask_network.requires_grad_(True)
        try:
            yield
        finally:
            self._mask_network.requires_grad_(False)
            for item in others:
                item.requires_grad_(True)
