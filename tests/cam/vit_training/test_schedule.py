"""Learning rates epoch by epoch, and what decays."""

from __future__ import annotations

import math

import pytest

from tests.cam.vit_training.helpers import tiny_network
from weaksam_cli.cam.vit_training.schedule import LearningRates, make_optimizer
from weaksam_cli.cam.vit_training.settings import FitSettings

PAPER = LearningRates(peak=5e-5, first=1e-6, least=1e-5, warmup_epochs=5, epochs=60)


def cosine(epoch: int) -> float:
    return 1e-5 + (5e-5 - 1e-5) * (1 + math.cos(math.pi * epoch / 60)) / 2


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 1e-6),
        (1, 1.08e-5),
        (4, 4.02e-5),
        (5, cosine(5)),
        (30, 3e-5),
        (59, cosine(59)),
        (60, 1e-5),
        (69, 1e-5),
    ],
)
def test_the_rate_of_every_part_of_a_training(epoch: int, expected: float) -> None:
    assert PAPER.rate(epoch) == pytest.approx(expected, rel=1e-9)


def test_timm_has_the_same_rates() -> None:
    import torch
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    timm = CosineLRScheduler(optimizer, t_initial=60, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(70):
        timm.step(epoch)
        assert PAPER.rate(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize(
    ("epochs", "batch", "expected"),
    [
        (60, 64, LearningRates(5e-5, 1e-6, 1e-5, 5, 60)),  # the defaults: 4e-4 for a batch of 512
        (6, 512, LearningRates(4e-4, 1e-6, 1e-5, 3, 6)),
        (1, 512, LearningRates(4e-4, 1e-6, 1e-5, 0, 1)),
        (60, 2, LearningRates(4e-4 / 256, 1e-6, 4e-4 / 256, 5, 60)),  # a peak below the least rate
    ],
)
def test_the_rates_of_settings(epochs: int, batch: int, expected: LearningRates) -> None:
    assert LearningRates.of(FitSettings(epochs=epochs), batch) == expected


def test_positions_tokens_biases_and_norms_do_not_decay() -> None:
    network = tiny_network(3)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decaying, others = make_optimizer(network, 0.05).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert decaying["eps"] == 1e-8
    plain = {names[id(parameter)] for parameter in others["params"]}
    assert {"pos_embed", "cls_token", "head.bias", "blocks.0.norm1.weight", "patch_embed.proj.bias"} <= plain
    heavy = {names[id(parameter)] for parameter in decaying["params"]}
    assert heavy == {name for name in names.values() if name.endswith("weight") and "norm" not in name}
    assert plain | heavy == set(names.values())
