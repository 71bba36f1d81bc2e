"""The loss of class-token transformers: a multi-label soft margin for each of their logits, all of the same weight."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weaksam_cli.models.vit.mctformer import MCTformerLogits
from weaksam_cli.models.vit.weaktr import WeakTrLogits


def soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over images and classes of the cross-entropy of independent sigmoids.

    Args:
        logits: (B, C) of any precision; computed in float32.
        targets: float32 (B, C), 0 or 1.

    Returns:
        float32 scalar.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def training_losses(logits: WeakTrLogits | MCTformerLogits, targets: Tensor) -> dict[str, Tensor]:
    """The losses by name; the network is trained by their sum, 1:1:1 (WeakTr) and 1:1 (MCTformer V2).

    Args:
        logits: what a network gave.
        targets: float32 (B, C), 0 or 1.
    """
    if isinstance(logits, WeakTrLogits):
        parts: dict[str, Tensor | None] = {"coarse": logits.coarse, "fine": logits.fine}
    else:
        parts = {"patch": logits.patch}
    named = {"class_token": logits.class_token, **parts}
    return {name: soft_margin(value, targets) for name, value in named.items() if value is not None}
