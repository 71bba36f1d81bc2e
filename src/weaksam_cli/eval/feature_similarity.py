"""How alike the proposals of an image look to a network: cosines of their RoI-pooled features (spec 07 §6, Fig. 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.random import generator_of

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def cosine_matrix(features: NDArray[np.floating]) -> FloatArray:
    """Cosine similarity of every pair of n vectors.

    Args:
        features: float (n, d). A vector of zeros has no direction: its cosine with every vector, itself too, is 0.

    Returns:
        float32 (n, n), symmetric, in [-1, 1].

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features: expected shape (n, d), got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features: expected finite values, got NaN or infinity")
    # Dividing by the largest value first keeps the squares of very large and very small vectors in range.
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(features, largest, out=np.zeros(features.shape, np.float32), where=largest > 0)
    length = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    unit = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)
    product = unit @ unit.T
    cosines: FloatArray = np.clip((product + product.T) / 2, -1, 1)
    return cosines


def mean_off_diagonal(matrix: NDArray[np.floating]) -> float:
    """Mean of a square matrix (n, n) without its diagonal; NaN for n of 0 or 1.

    Raises:
        ValueError: for a matrix that is not square.
    """
    n = len(matrix)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix: expected shape (n, n), got {matrix.shape}")
    if n < 2:
        return float("nan")
    total = matrix.sum(dtype=np.float64) - np.trace(matrix, dtype=np.float64)
    return float(total / (n * (n - 1)))


def sample_rows(count: int, most: int, seed: int, key: str) -> IntArray:
    """Which of `count` rows of the image `key` are taken: all, or `most` at random without repetition, ascending.

    The same numbers, seed and key give the same rows wherever and in whatever order images are done.

    Raises:
        ValueError: for a negative number.
    """
    if count < 0 or most < 0:
        raise ValueError(f"sample: expected numbers of 0 or more, got {most} of {count}")
    chosen = generator_of(seed, key).choice(count, min(count, most), replace=False)
    rows: IntArray = np.sort(chosen).astype(np.int64)
    return rows
