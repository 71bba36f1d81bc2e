"""Clustering of the peaks of the cross-attention maps (spec 02 §4)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Points

FALLBACK_XY = (100, 100)
"""The pixel that the published code prompts with when an image has no cross-attention peak."""


class ClusterSettings(RecipeModel):
    """k-means over the points of the cross-attention maps.

    Attributes:
        enabled: cluster at all.
        within_class: cluster each class by itself, in class order: centres keep the class and take the largest value of
            their members (published: False).
        fallback_point: prompt at pixel (100, 100) where an image has no point, as the published code does.
        points_per_cluster: points that share a centre on average.
    """

    enabled: bool = True
    within_class: bool = False
    fallback_point: bool = False
    points_per_cluster: int = Field(default=5, ge=1)


def cluster_points(points: Points, settings: ClusterSettings, seed: int) -> Points:
    """Replace the points of one image by the centres of max(1, n // points_per_cluster) clusters.

    The published code clusters all points of all classes and heads together: the class is lost, every centre has
    the value 1, and an image without points gets the fixed pixel (100, 100). Centres are cut to whole pixels
    towards zero and stand in the order in which scikit-learn returns them.

    Args:
        points: peaks of one image; their map index is not used.
        settings: see there.
        seed: seed of k-means++.

    Returns:
        The centres; class index -1 where the class is lost.
    """
    if len(points) == 0:
        none = np.asarray([FALLBACK_XY] if settings.fallback_point else [], np.int32).reshape(-1, 2)
        return _centres(none, -1, np.ones(len(none)))
    if not settings.within_class:
        centres, _ = _kmeans(points.xy, max(1, len(points) // settings.points_per_cluster), seed)
        return _centres(centres, -1, np.ones(len(centres)))
    parts = []
    for class_index in np.unique(points.class_index):
        members = points.class_index == class_index
        count = max(1, int(members.sum()) // settings.points_per_cluster)
        centres, assignment = _kmeans(points.xy[members], count, seed)
        best = np.zeros(len(centres))
        np.maximum.at(best, assignment, points.value[members])
        # Identical points can leave a cluster empty; its centre repeats another one.
        filled = np.isin(np.arange(len(centres)), assignment)
        parts.append(_centres(centres[filled], int(class_index), best[filled]))
    return Points.concatenate(parts)


def _kmeans(xy: NDArray[np.int32], count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Centres (count, 2) and the cluster of every point (n,)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Identical points give identical centres, which is what the published code writes, too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(n_clusters=count, random_state=seed, n_init="auto").fit(xy.astype(np.float64))
    return fitted.cluster_centers_, fitted.labels_


def _centres(xy: NDArray[np.generic], class_index: int, value: NDArray[np.float64]) -> Points:
    n = len(xy)
    return Points(
        xy.astype(np.int32),
        np.full(n, class_index, dtype=np.int32),
        value.astype(np.float32),
        np.zeros(n, dtype=np.int16),
    )
