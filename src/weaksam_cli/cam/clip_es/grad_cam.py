"""Grad-CAM on the first layer norm of the last block (spec 01 §c.2)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from weaksam_cli.models.clip.vision import LastBlock

EPSILON: Final = 1e-7


def min_max(maps: Tensor) -> Tensor:
    """Each map (..., h, w) shifted to a minimum of 0 and divided by 1e-7 plus its maximum then; zeros stay zeros."""
    shifted = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return shifted / (EPSILON + shifted.amax(dim=(-2, -1), keepdim=True))


def class_probabilities(feature: Tensor, classes: Tensor, background: Tensor, scale: Tensor) -> Tensor:
    """Softmax over classes and background names.

    Args:
        feature: float32 (embed,), a unit vector of the image.
        classes: float32 (k, embed), unit vectors of the classes that take part.
        background: float32 (b, embed), of the background names.
        scale: the logarithm of CLIP's temperature, a scalar.

    Returns:
        float32 (k,), the classes' part of the k + b probabilities.
    """
    logits = scale.exp() * (torch.cat([classes, background]) @ feature)
    return logits.softmax(dim=0)[: len(classes)]


def grad_cam(last: LastBlock, probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of the classes whose probabilities are given.

    For each class: the gradient of its probability with respect to the last block's normed patch tokens, averaged over
    them, weighs the channels of these tokens; the sum is cut off at 0 and min-max scaled twice, as published (once for
    the layer, once for the mean over the one layer).

    Args:
        last: the last block with its graph.
        probabilities: float32 (k,), made from `last.patch_feature`.
        size: (h, w), the grid of patches.

    Returns:
        float32 (k, h, w) in [0, 1].
    """
    tokens = last.normed.detach()[0, 1:]
    maps = []
    for probability in probabilities:
        (gradient,) = torch.autograd.grad(probability, last.normed, retain_graph=True)
        weights = gradient[0, 1:].mean(dim=0)
        maps.append((tokens @ weights).relu().reshape(size))
    if not maps:
        return tokens.new_zeros((0, *size))
    return min_max(min_max(torch.stack(maps)))
