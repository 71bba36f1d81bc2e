"""Pairwise IoU and the box coder of Fast R-CNN on tensors.

Boxes are (n, 4), xyxy. On pixel edges (the program's own convention) `plus_one` is False. The published MIST trainer works
on inclusive pixel indexes and counts sides with +1, which gives the same numbers as pixel edges; `plus_one=True` takes its
boxes as they are.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

REGRESSION_WEIGHTS: Final = (10.0, 10.0, 5.0, 5.0)
"""Scales of (dx, dy, dw, dh), spec 04 §A.2."""

LARGEST_LOG_RATIO: Final = math.log(1000.0 / 16)
"""Decoded sides grow at most by this factor, on a log scale."""


def pairwise_iou(a: Tensor, b: Tensor, *, plus_one: bool = False) -> Tensor:
    """IoU of every box of `a` (n, 4) with every box of `b` (m, 4): (n, m); 0 where both are empty."""
    extra = float(plus_one)
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (high - low + extra).clamp(min=0).prod(dim=2)
    union = _area(a, extra)[:, None] + _area(b, extra)[None, :] - overlap
    return torch.where(union > 0, overlap / union, torch.zeros_like(overlap))


def encode(targets: Tensor, proposals: Tensor, *, plus_one: bool = False) -> Tensor:
    """Regression targets (n, 4) that take each proposal (n, 4) to its target (n, 4), weighted."""
    x, y, w, h = _centre_form(proposals, plus_one)
    target_x, target_y, target_w, target_h = _centre_form(targets, plus_one)
    deltas = [(target_x - x) / w, (target_y - y) / h, torch.log(target_w / w), torch.log(target_h / h)]
    return torch.stack(deltas, dim=1) * proposals.new_tensor(REGRESSION_WEIGHTS)


def decode(deltas: Tensor, proposals: Tensor, *, plus_one: bool = False) -> Tensor:
    """Boxes (n, 4 k) that deltas (n, 4 k) make of proposals (n, 4), k classes side by side."""
    x, y, w, h = (side[:, None, None] for side in _centre_form(proposals, plus_one))
    per_class = deltas.unflatten(1, (deltas.shape[1] // 4, 4)) / deltas.new_tensor(REGRESSION_WEIGHTS)
    centre = torch.cat([per_class[..., :1] * w + x, per_class[..., 1:2] * h + y], dim=2)
    growth = per_class[..., 2:].clamp(max=LARGEST_LOG_RATIO).exp()
    half = 0.5 * torch.cat([growth[..., :1] * w, growth[..., 1:] * h], dim=2)
    return torch.cat([centre - half, centre + half - float(plus_one)], dim=2).reshape(deltas.shape)


def _area(boxes: Tensor, extra: float) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] + extra).clamp(min=0).prod(dim=1)


def _centre_form(boxes: Tensor, plus_one: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = boxes[:, 2] - boxes[:, 0] + float(plus_one)
    height = boxes[:, 3] - boxes[:, 1] + float(plus_one)
    return boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height, width, height
