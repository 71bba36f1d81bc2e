"""Top-k pseudo ground truth: the best boxes of every labelled class (spec 05 §6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.pgt.table import DetectionTable, Groups, filter_classes


def top_k(table: DetectionTable, labels: NDArray[np.bool_], *, k: int = 1) -> DetectionTable:
    """The `k` best detections with a positive score of every image-level label of every image.

    Args:
        table: detections on the training images.
        labels: bool (n_images, n_classes), image-level labels.
        k: boxes a class at most (published: 1).

    Returns:
        The pseudo boxes by image, and within an image by decreasing score over all classes; equal scores keep
        their table order. Scores are those of the detector. A label without detections has no pseudo box.

    Raises:
        ValueError: for `k` below 1, or when an image or class of the table is not in `labels`.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    labelled = filter_classes(table, labels)
    positive = labelled.take(labelled.scores > 0)
    ordered = positive.take(np.lexsort((-positive.scores, positive.image_index)))
    groups = Groups.of(ordered)
    rank = np.empty(len(ordered), dtype=np.int64)
    rank[groups.order] = np.arange(len(ordered)) - np.repeat(groups.starts, groups.counts)
    return ordered.take(rank < k)
