"""Peaks of class activation maps as point prompts: Algorithm 1 of the paper's supplement (spec 02 §1, §2), clustered (§4).

A peak is a pixel that no pixel of its window exceeds. The published code takes the 25 best, thins them by their
L1 distance, and emits them in order until the map falls below the threshold. Where it leaves the order of equal
values to its sorting routine, the order here is row-major: the upper row first, then the left column.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, fuse_scales, read_class_maps
from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.points import POINTS, points_to_rows
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.core.boxes import IntArray
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Points
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step
from weaksam_cli.prompt.stage import open_cam

FALLBACK_XY = (100, 100)
"""The pixel that the published code prompts with when an image has no cross-attention peak."""


class KindSettings(RecipeModel):
    """Peaks of one kind of maps.

    Attributes:
        window: side of the window in pixels of the image; an even side grows by one (supplement §7 states 128, with which
            the published code fails; its scripts use 129).
        threshold: least value of the normalised map.
        max_points: length of the list before thinning (K of Algorithm 1).
        emit_fillers: let pixels that are no maxima fill a short list, as the published code does.
    """

    window: int = Field(ge=1, le=1025)
    threshold: float = Field(default=0.9, gt=0, le=1)
    max_points: int = Field(default=25, ge=1, le=1_000)
    emit_fillers: bool = True

    @property
    def radius(self) -> int:
        """Pixels from the centre of the window to its edge."""
        return self.window // 2


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
    points_per_cluster: int = Field(default=5, ge=1, le=100_000)


class Recipe(RecipeModel):
    """Algorithm 1 on each kind of maps; null skips a kind."""

    method: Literal["peaks"] = "peaks"
    coarse: KindSettings | None
    fine: KindSettings | None
    cross: KindSettings | None
    cluster: ClusterSettings


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """One artifact a split."""

    def work(context: Context) -> PerImage:
        cam = context.rows("cam", split)
        with open_cam(cam) as artifact:
            ids = artifact.image_ids
            tables = {"class_names": artifact.table("class_names"), "kind_names": list(KINDS)}
        predictor = PeaksPredictor(cam, recipe, context.seed)
        return PerImage(POINTS, ids, predictor, "points", tables, shard_images=16)

    yield Step(
        path=context.run.output("prompt", split),
        schema=POINTS,
        split=split,
        settings=recipe,
        inputs={"cam": context.run.input("cam", split)},
        run=ImageByImage(work),
        title="peak points",
    )


@dataclass(frozen=True)
class PeaksPredictor:
    """Points of one image from its maps."""

    cam: Rows
    recipe: Recipe
    seed: int

    def open(self) -> ImageFunction:
        """Open the maps once a process."""
        artifact = open_cam(self.cam, verify=False)

        def function(image_id: str) -> ImageRows:
            maps = read_class_maps(artifact, image_id)
            return points_to_rows(prompts_of_image(maps, self.recipe, self.seed), maps.image_size)

        return function


def prompts_of_image(maps: ClassMaps, recipe: Recipe, seed: int) -> list[tuple[int, Points]]:
    """(kind, points) of one image in the order of the published concatenation: coarse, fine, cross."""
    parts = []
    for kind, (name, settings) in enumerate(
        zip(KINDS, (recipe.coarse, recipe.fine, recipe.cross), strict=True)
    ):
        if settings is None:
            continue
        fused = fuse_scales(maps, kind, *maps.image_size)
        points = Points.empty() if fused is None else points_from_maps(fused, maps.classes(), settings)
        if name == "cross" and recipe.cluster.enabled and fused is not None:
            points = cluster_points(points, recipe.cluster, seed)
        parts.append((kind, points))
    return parts


@dataclass(frozen=True)
class Peaks:
    """Peaks of one map in the order of their discovery.

    Attributes:
        rows: int64 (n,), 0-based pixel rows.
        columns: int64 (n,), 0-based pixel columns.
        values: float32 (n,), the map at the pixel.
    """

    rows: IntArray
    columns: IntArray
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def above(self, threshold: float) -> Peaks:
        """The peaks before the first one whose map value is below `threshold` (compared in float32)."""
        below = np.flatnonzero(self.values < np.float32(threshold))
        end = int(below[0]) if len(below) else len(self)
        return Peaks(self.rows[:end], self.columns[:end], self.values[:end])


def find_peaks(heat: NDArray[np.float32], settings: KindSettings) -> Peaks:
    """Local maxima of one map (H, W) at image size by decreasing value, thinned by their L1 distance.

    1. A pixel is a maximum when it equals the maximum of its window; all pixels of a plateau are.
    2. The `max_points` best enter the list. With `emit_fillers` the list is filled with non-maxima when there
       are fewer, as in the published code, where a non-maximum has the score 0 and so ranks above a negative
       maximum. A map with fewer pixels than `max_points`, on which the published code fails, enters whole.
    3. In list order a candidate is rejected when an accepted one is nearer than the window's radius in L1.

    Raises:
        ValueError: for NaN in the map.
    """
    if np.isnan(heat).any():
        raise ValueError("heat: expected numbers, got NaN")
    flat, is_maximum = heat.ravel(), (window_maximum(heat, settings.radius) == heat).ravel()
    score = np.where(is_maximum, flat, np.float32(0))
    candidates = np.arange(flat.size) if settings.emit_fillers else np.flatnonzero(is_maximum)
    listed = candidates[np.argsort(-score[candidates], kind="stable")[: settings.max_points]]
    rows, columns = np.divmod(listed, max(heat.shape[1], 1))
    kept = _thin(rows, columns, settings.radius)
    return Peaks(rows[kept], columns[kept], flat[listed[kept]])


def window_maximum(heat: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Largest value of the square around every pixel of a map (H, W); outside the map lies minus infinity."""
    import cv2

    if heat.size == 0:
        return heat
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    found = cv2.dilate(heat, square, borderType=cv2.BORDER_CONSTANT, borderValue=-np.inf)
    return np.asarray(found, np.float32).reshape(heat.shape)


def _thin(rows: IntArray, columns: IntArray, radius: int) -> IntArray:
    """Indexes of a maximal subset, greedy in list order, whose L1 distances are all at least `radius`."""
    kept: list[int] = []
    for index in range(len(rows)):
        distance = np.abs(rows[kept] - rows[index]) + np.abs(columns[kept] - columns[index])
        if not (distance < radius).any():
            kept.append(index)
    return np.asarray(kept, dtype=np.int64)


def points_from_maps(maps: NDArray[np.float32], class_index: Sequence[int], settings: KindSettings) -> Points:
    """Point prompts of one image: the peaks of every class map, in class order and map order.

    Args:
        maps: float32 (k, H, W), or (k, m, H, W) with m maps a class (cross-attention); normalised to [0, 1].
        class_index: the k classes of the maps, indexes into the dataset's class names.
        settings: see there (published: window 17 for fine and coarse maps, 129 for cross; threshold 0.9).
    """
    parts: list[Points] = []
    for row in np.argsort(np.asarray(class_index), kind="stable"):
        for map_index, heat in enumerate(maps[row] if maps.ndim == 4 else maps[row : row + 1]):
            # Nothing is emitted below the threshold, so the maps of absent classes need no search.
            if heat.size == 0 or heat.max() < np.float32(settings.threshold):
                continue
            found = find_peaks(heat, settings).above(settings.threshold)
            parts.append(
                Points(
                    np.stack([found.columns, found.rows], axis=1).astype(np.int32),
                    np.full(len(found), class_index[row], dtype=np.int32),
                    found.values,
                    np.full(len(found), map_index, dtype=np.int16),
                )
            )
    return Points.concatenate(parts)


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
