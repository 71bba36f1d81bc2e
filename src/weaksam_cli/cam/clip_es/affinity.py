"""Class-aware attention affinity: maps spread along attention, from inside their boxes only (spec 01 §c.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam_cli.cam.clip_es.grad_cam import min_max


def transition(attention: Tensor, *, rounds: int = 3) -> Tensor:
    """A symmetric, nearly doubly stochastic matrix from patch-to-patch attention, squared once.

    Args:
        attention: float32 (n, n), not negative, mean over blocks and heads; rows are queries.
        rounds: how often columns, then rows, are normalised.

    Returns:
        float32 (n, n); column j says where the value of patch j goes.
    """
    matrix = attention
    # A patch that nothing attends to, its softmax rounded to 0, stays without a value instead of making all of them NaN.
    least = torch.finfo(attention.dtype).tiny
    for _ in range(rounds):
        matrix = matrix / matrix.sum(dim=0, keepdim=True).clamp_min(least)
        matrix = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(least)
    matrix = (matrix + matrix.T) / 2
    return matrix @ matrix


def refine(cams: Tensor, matrix: Tensor, masks: Tensor) -> Tensor:
    """Maps spread by a transition matrix and min-max scaled.

    Args:
        cams: float32 (k, h, w).
        matrix: float32 (h * w, h * w), see `transition`.
        masks: bool (k, h, w); values outside go nowhere. An empty mask gives a map of zeros.

    Returns:
        float32 (k, h, w) in [0, 1].
    """
    sources = torch.where(masks, cams, torch.zeros_like(cams)).flatten(1)
    return min_max((sources @ matrix.T).reshape(cams.shape))
