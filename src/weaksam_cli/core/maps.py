"""Pure functions on class maps: which views count, their fusion, and spreading over similar cells (spec 01 §a.5, §b.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

EPSILON: Final = np.float32(1e-8)
ROUNDING: Final = np.float32(1e-6)
SMALLEST_DEVIATION: Final = np.float32(1e-3)
"""Added to a feature's standard deviation: what never fires would be blown up by rounding noise."""


def classes_of_views(
    given: Sequence[int] | None, logits: NDArray[np.float32], logit_threshold: float
) -> NDArray[np.bool_]:
    """Which classes enter the fusion in every view.

    Given classes enter in all views. Otherwise the first view in which a class-token logit exceeds the threshold decides
    for itself and all later views; the views before it count for nothing (the published code changes its target in place).

    Args:
        given: indexes of the classes of the image-level labels; None where they are unknown.
        logits: float32 (views, C), class-token logits without a sigmoid.
        logit_threshold: strict lower bound of a predicted class (published: -0.5).

    Returns:
        bool (views, C).
    """
    entering = np.zeros(logits.shape, dtype=bool)
    if given is not None:
        entering[:, list(given)] = True
        return entering
    predicted = logits > np.float32(logit_threshold)
    deciding = np.flatnonzero(predicted.any(axis=1))
    if len(deciding):
        entering[deciding[0] :] = predicted[deciding[0]]
    return entering


def resize_bilinear(maps: NDArray[np.floating], height: int, width: int) -> NDArray[np.float32]:
    """Maps (..., h, w) resized to (..., height, width) by torch's bilinear rule, `align_corners=False`."""
    import torch
    import torch.nn.functional as F

    if not maps.size:
        return np.zeros((*maps.shape[:-2], height, width), np.float32)
    flat = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32)).reshape(1, -1, *maps.shape[-2:])
    resized = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
    answer: NDArray[np.float32] = resized.numpy().reshape(*maps.shape[:-2], height, width)
    return answer


def normalise(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each map (..., H, W) shifted and scaled to [0, 1]: (m - min) / (max - min + 1e-8).

    A map that is flat up to the rounding of the resizing becomes 0. The published code divides its rounding
    noise, some 1e-7, by the same span and so makes peaks of nothing.
    """
    low = maps.min(axis=(-2, -1), keepdims=True)
    high = maps.max(axis=(-2, -1), keepdims=True)
    span = high - low
    flat = span <= ROUNDING * np.maximum(np.abs(low), np.abs(high))
    scaled: NDArray[np.float32] = np.where(flat, np.float32(0), (maps - low) / (span + EPSILON))
    return scaled


def cell_affinity(
    features: NDArray[np.float32], *, threshold: float = 0.2, power: float = 2.0
) -> NDArray[np.float32]:
    """How alike the cells of one image are, as a row-stochastic matrix: spreads class maps over similar features.

    What WeakTr and MCTformer do with patch-to-patch attention, a convolutional network does with the likeness of its cells.

    Every channel is standardised over the image (so that what all cells share says nothing), cells become unit
    vectors, and the affinity of two cells is max(cosine - threshold, 0) ** power, normalised to sum to 1 in each row.

    Args:
        features: float32 (channels, h, w).
        threshold: cosines up to it count for nothing; below 1.
        power: above 1 it favours the most similar cells.

    Returns:
        float32 (h * w, h * w); a cell without any signal is like itself alone.
    """
    cells = features.reshape(len(features), -1).T
    cells = (cells - cells.mean(axis=0)) / (cells.std(axis=0) + SMALLEST_DEVIATION)
    length = np.linalg.norm(cells, axis=1, keepdims=True)
    cells = np.divide(cells, length, out=np.zeros_like(cells), where=length > 0)
    cosine = cells @ cells.T
    np.fill_diagonal(cosine, 1)
    affinity = np.maximum(cosine - np.float32(threshold), 0) ** np.float32(power)
    stochastic: NDArray[np.float32] = affinity / affinity.sum(axis=1, keepdims=True)
    return stochastic
