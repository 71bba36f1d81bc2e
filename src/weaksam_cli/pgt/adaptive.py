"""Adaptive pseudo ground truth: as many boxes a class as its scores support (spec 05 §2 to §5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.pgt.containment import ContainmentInput, Mutual, contained
from weaksam_cli.pgt.table import DetectionTable, Groups, labelled_rows

EPSILON = 1e-8


def adaptive_rows(
    table: DetectionTable,
    labels: NDArray[np.bool_],
    *,
    score_threshold: float = 0.3,
    containment_threshold: float = 0.85,
    sort_first: bool = True,
    mutual: Mutual = "drop_both",
    containment_input: ContainmentInput = "fix",
    exempt_classes: Collection[int] = (),
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Class filter, score filter and containment filter, in this order, for all images at once.

    Args:
        table: detections on the training images, with the detector's scores.
        labels: bool (n_images, n_classes), image-level labels.
        score_threshold: least relative score of a further box (paper, supplement §7: 0.3).
        containment_threshold: share of its area by which a box lies within another to go (supplement §7: 0.85).
        sort_first: keep the best detection of each class whatever its score; otherwise the first in table order,
            as the published code does, which is the same for detections sorted by score.
        mutual: see `weaksam_cli.pgt.containment.contained`.
        containment_input: see `weaksam_cli.pgt.containment.contained`.
        exempt_classes: classes that the containment filter leaves alone (WeakSAM: none).

    Returns:
        The rows of `table` that stay, int64 (m,), ascending, and their relative scores, see `relative_scores`.

    Raises:
        ValueError: when an image or class of the table is not in `labels`.
    """
    rows = labelled_rows(table, labels)
    labelled = table.take(rows)
    scored = replace(labelled, scores=relative_scores(labelled))
    passing = np.flatnonzero(passing_scores(scored, score_threshold, sort_first=sort_first))
    kept = scored.take(passing)
    exempt = np.isin(kept.class_index, list(exempt_classes))
    inside = contained(
        kept, threshold=containment_threshold, mutual=mutual, containment_input=containment_input
    )
    remaining = ~inside | exempt
    return rows[passing[remaining]], kept.scores[remaining]


def relative_scores(table: DetectionTable) -> NDArray[np.float64]:
    """Scores divided by their span within image and class: s / (max - min + 1e-8), shape (n,).

    As published: the minimum is not subtracted, so that the best box has a relative score of 1 or a little more
    where low scores are present, and some 1e8 times its score where it is the only one.
    """
    if len(table) == 0:
        return table.scores
    groups = Groups.of(table)
    ordered = table.scores[groups.order]
    span = np.maximum.reduceat(ordered, groups.starts) - np.minimum.reduceat(ordered, groups.starts)
    return table.scores / (groups.spread(span) + EPSILON)


def passing_scores(table: DetectionTable, threshold: float, *, sort_first: bool) -> NDArray[np.bool_]:
    """Which rows reach `threshold`, or are the first (`sort_first`: the best) of their image and class, (n,)."""
    passing = table.scores >= threshold
    if len(table) == 0:
        return passing
    groups = Groups.of(table)
    order = groups.order
    if sort_first:
        group_of_row = np.repeat(np.arange(len(groups.starts)), groups.counts)
        order = order[np.lexsort((-table.scores[order], group_of_row))]
    passing[order[groups.starts]] = True
    return passing
