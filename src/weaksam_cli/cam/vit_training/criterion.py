"""Which epoch's network is kept, told by image-level labels alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image_wise_map(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Mean over the images of the average precision with which an image's own classes are ranked first.

    The published code picks a checkpoint by it, on validation images (spec 01 §a.3).

    Args:
        scores: float32 (n, C).
        labels: bool (n, C); images without any class are left out.

    Returns:
        0 to 1; of equal scores the wrong class comes first. 0 when no image has a class.
    """
    precisions = []
    for row, truth in zip(scores, labels, strict=True):
        if truth.any():
            order = np.lexsort((truth, -row))
            hits = truth[order]
            ranks = np.flatnonzero(hits) + 1
            precisions.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
    return float(np.mean(precisions)) if precisions else 0.0
