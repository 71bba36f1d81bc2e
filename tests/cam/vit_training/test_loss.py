"""Losses against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from weaksam_cli.cam.vit_training.loss import soft_margin, training_losses
from weaksam_cli.models.vit.mctformer import MCTformerLogits
from weaksam_cli.models.vit.weaktr import WeakTrLogits


@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (1, 7), (2, 1), (6, 7)])
def test_the_soft_margin_is_torchs(batch: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(batch + classes)
    logits = torch.randn(batch, classes, generator=generator) * 5
    targets = (torch.rand(batch, classes, generator=generator) < 0.4).float()
    expected = F.multilabel_soft_margin_loss(logits, targets)
    torch.testing.assert_close(soft_margin(logits, targets), expected)


def test_half_precision_is_computed_in_float32() -> None:
    logits, targets = torch.tensor([[30.0, -30.0]], dtype=torch.float16), torch.tensor([[1.0, 1.0]])
    assert soft_margin(logits, targets).dtype is torch.float32
    assert float(soft_margin(logits, targets)) == pytest.approx(15.0)


def test_every_logit_of_a_network_counts_once() -> None:
    a, b, c = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    targets = torch.eye(4)[:3]
    losses = {
        "weaktr": training_losses(WeakTrLogits(a, b, c), targets),
        "v2": training_losses(MCTformerLogits(a, b), targets),
        "v1": training_losses(MCTformerLogits(a, None), targets),
    }
    assert {name: list(found) for name, found in losses.items()} == {
        "weaktr": ["class_token", "coarse", "fine"],
        "v2": ["class_token", "patch"],
        "v1": ["class_token"],
    }
    expected = sum(F.multilabel_soft_margin_loss(item, targets) for item in (a, b, c))
    torch.testing.assert_close(sum(losses["weaktr"].values()), expected)
