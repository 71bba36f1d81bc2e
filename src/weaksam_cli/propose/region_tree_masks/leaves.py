"""Small regions bounded by edges, the leaves: watersheds, and what is pooled over them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from weaksam_cli.core.boxes import FloatArray

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
_MORE_SMOOTHING = 1.5


def watersheds(relief: FloatArray, sigma: float, most: int) -> NDArray[np.int32]:
    """Catchment basins of the smoothed relief (h, w): labels int32 (h, w), 0 to n - 1 without gaps, n at most `most`.

    Where there are more, they are those of a relief that is smoothed more.
    """
    while True:
        labels = basins(np.asarray(cv2.GaussianBlur(relief, (0, 0), sigma), np.float32))
        if labels.max() < most:
            return labels
        if sigma > max(relief.shape):
            return np.zeros_like(labels)
        sigma *= _MORE_SMOOTHING


def basins(relief: FloatArray) -> NDArray[np.int32]:
    """Catchment basins of a relief (h, w): labels int32 (h, w), 0 to n - 1 without gaps.

    Every drop of water runs to the lowest of the eight neighbours, and pixels whose drops end in the same place are a basin
    (Cousty et al., "Watershed cuts", PAMI 2009, on pixels). On a plateau it runs to the first pixel.
    """
    h, w = relief.shape
    index = np.arange(h * w).reshape(h, w)
    around = np.pad(relief, 1, constant_values=np.inf)
    names = np.pad(index, 1, constant_values=h * w)
    lowest, target = relief, index
    for dy, dx in _NEIGHBOURS:
        window = np.s_[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]
        height, name = around[window], names[window]
        lower = (height < lowest) | ((height == lowest) & (name < target))
        lowest, target = np.where(lower, height, lowest), np.where(lower, name, target)
    flow = sparse.coo_matrix((np.ones(h * w, np.int8), (index.ravel(), target.ravel())), (h * w, h * w))
    _, labels = connected_components(flow, directed=False)
    return np.asarray(labels, np.int32).reshape(h, w)


def pooled(labels: NDArray[np.int32], features: FloatArray) -> FloatArray:
    """Mean over every region of a map that is enlarged bilinearly, pixel centres on pixel centres.

    Args:
        labels: int32 (h, w), 0 to n - 1.
        features: float32 (c, rows, columns), the map of a network.

    Returns:
        float32 (n, c).
    """
    channels, rows, columns = features.shape
    down, right = _between(labels.shape[0], rows), _between(labels.shape[1], columns)
    cell, weight = [], []
    for row, of_row in down:
        for column, of_column in right:
            cell.append((row[:, None] * columns + column).ravel())
            weight.append(np.outer(of_row, of_column).ravel())
    region = np.tile(labels.ravel(), 4)
    shape = (int(labels.max()) + 1, rows * columns)
    share = sparse.coo_matrix((np.concatenate(weight), (region, np.concatenate(cell))), shape).tocsr()
    total = share @ features.reshape(channels, -1).T
    return np.asarray(total / np.bincount(labels.ravel())[:, None], np.float32)


def _between(length: int, cells: int) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The two cells on both sides of every pixel of an axis, and the weight of each."""
    place = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
    before = np.floor(place).astype(np.int64)
    return [(before, 1 - (place - before)), (np.minimum(before + 1, cells - 1), place - before)]
