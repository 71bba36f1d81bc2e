"""How alike the cells of one image are: spreads class maps over regions of similar features.

What WeakTr and MCTformer do with patch-to-patch attention (spec 01 §a.5, §b.3), a convolutional network does with the
similarity of its cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
SMALLEST_DEVIATION = 1e-3


def cell_affinity(features: FloatArray, *, threshold: float = 0.2, power: float = 2.0) -> FloatArray:
    """How alike the cells of one image are, as a row-stochastic matrix.

    Every channel is standardised over the image (so that what all cells share says nothing), cells become unit
    vectors, and the affinity of two cells is max(cosine - threshold, 0) ** power, normalised to sum to 1 in each row.

    Args:
        features: float32 (channels, h, w).
        threshold: cosines up to it count for nothing; below 1.
        power: above 1 it favours the most similar cells.

    Returns:
        float32 (h * w, h * w); a cell without any signal is like itself alone.
    """
    if not threshold < 1:
        raise ValueError(f"threshold: expected a value below 1, met {threshold}")
    cells = features.reshape(len(features), -1).T
    cells = (cells - cells.mean(axis=0)) / (cells.std(axis=0) + np.float32(SMALLEST_DEVIATION))
    length = np.linalg.norm(cells, axis=1, keepdims=True)
    cells = np.divide(cells, length, out=np.zeros_like(cells), where=length > 0)
    cosine = cells @ cells.T
    np.fill_diagonal(cosine, 1)
    affinity = np.maximum(cosine - np.float32(threshold), 0) ** np.float32(power)
    stochastic: FloatArray = affinity / affinity.sum(axis=1, keepdims=True)
    return stochastic
