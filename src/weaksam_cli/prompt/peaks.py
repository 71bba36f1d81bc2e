"""Peaks of class activation maps as point prompts: Algorithm 1 of the paper's supplement (spec 02 §1, §2).

A peak is a pixel that no pixel of its window exceeds. The published code takes the 25 best, thins them by their
L1 distance, and emits them in order until the map falls below the threshold. Where it leaves the order of equal
values to its sorting routine, the order here is row-major: the upper row first, then the left column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.types import Points
from weaksam_cli.prompt.maximum_filter import maximum_filter, odd_window

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class Peaks:
    """Peaks of one map in the order of their discovery.

    Attributes:
        rows: int64 (n,), 0-based pixel rows.
        columns: int64 (n,), 0-based pixel columns.
        values: float32 (n,), the map at the pixel.
        is_maximum: bool (n,), False for a pixel that only fills the list.
    """

    rows: IndexArray
    columns: IndexArray
    values: NDArray[np.float32]
    is_maximum: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> Peaks:
        """The first `count` peaks."""
        return Peaks(self.rows[:count], self.columns[:count], self.values[:count], self.is_maximum[:count])


def find_peaks(
    heat: NDArray[np.float32], *, window: int, max_points: int = 25, emit_fillers: bool = True
) -> Peaks:
    """Local maxima of one map by decreasing value, thinned by their L1 distance.

    1. A pixel is a maximum when it equals the maximum of its window; all pixels of a plateau are.
    2. The `max_points` best enter the list. With `emit_fillers` the list is filled with non-maxima when there
       are fewer, as in the published code, where a non-maximum has the score 0 and so ranks above a negative
       maximum. A map with fewer pixels than `max_points`, on which the published code fails, enters whole.
    3. In list order a candidate is rejected when an accepted one is nearer than (window - 1) // 2 pixels in L1.

    Args:
        heat: float32 (H, W) at image size.
        window: side of the window in image pixels; an even side grows by one (128 acts as 129).
        max_points: length of the list before thinning.
        emit_fillers: whether non-maxima fill a short list (published: True).

    Raises:
        ValueError: for NaN in the map, a map that is not two-dimensional, or counts below one.
    """
    if max_points < 1:
        raise ValueError(f"max_points: expected at least 1, got {max_points}")
    heat = np.asarray(heat, dtype=np.float32)
    window = odd_window(window)
    maxima = maximum_filter(heat, window) == heat
    if np.isnan(heat).any():
        raise ValueError("heat: expected numbers, got NaN")
    flat, is_maximum = heat.ravel(), maxima.ravel()
    if emit_fillers:
        listed = _best_with_fillers(np.where(is_maximum, flat, np.float32(0)), max_points)
    else:
        candidates = np.flatnonzero(is_maximum)
        listed = candidates[np.argsort(-flat[candidates], kind="stable")][:max_points]
    rows, columns = np.divmod(listed, max(heat.shape[1], 1))
    kept = _thin(rows, columns, radius=(window - 1) // 2)
    return Peaks(rows[kept], columns[kept], flat[listed[kept]], is_maximum[listed[kept]])


def _best_with_fillers(score: NDArray[np.float32], count: int) -> IndexArray:
    """The `count` largest scores, equal ones in index order, without sorting the many zeros."""
    positive = np.flatnonzero(score > 0)
    chosen = positive[np.argsort(-score[positive], kind="stable")][:count]
    if len(chosen) == count:
        return chosen
    chosen = np.concatenate([chosen, np.flatnonzero(score == 0)[: count - len(chosen)]])
    if len(chosen) == count:
        return chosen
    negative = np.flatnonzero(score < 0)
    ordered = negative[np.argsort(-score[negative], kind="stable")]
    return np.concatenate([chosen, ordered[: count - len(chosen)]])


def _thin(rows: IndexArray, columns: IndexArray, *, radius: int) -> IndexArray:
    """Indexes of a maximal subset, greedy in list order, whose L1 distances are all at least `radius`."""
    kept: list[int] = []
    for index in range(len(rows)):
        distance = np.abs(rows[kept] - rows[index]) + np.abs(columns[kept] - columns[index])
        if not (distance < radius).any():
            kept.append(index)
    return np.asarray(kept, dtype=np.int64)


def above_threshold(peaks: Peaks, threshold: float) -> Peaks:
    """The peaks before the first one whose map value is below `threshold` (compared in float32)."""
    below = np.flatnonzero(peaks.values < np.float32(threshold))
    return peaks.first(int(below[0])) if len(below) else peaks


def points_from_maps(
    maps: NDArray[np.float32],
    class_index: Sequence[int],
    *,
    window: int,
    threshold: float,
    max_points: int = 25,
    emit_fillers: bool = True,
) -> Points:
    """Point prompts of one image: the peaks of every class map, in class order and map order.

    Args:
        maps: float32 (k, H, W), or (k, m, H, W) with m maps a class (cross-attention); normalised to [0, 1].
        class_index: the k classes of the maps, indexes into the dataset's class names.
        window: side of the window in image pixels (published: 17 for fine and coarse maps, 129 for cross).
        threshold: least map value of a point (published: 0.9).
        max_points: see `find_peaks`.
        emit_fillers: see `find_peaks`.

    Raises:
        ValueError: when `maps` and `class_index` do not fit, or the threshold is not positive.
    """
    if maps.ndim not in (3, 4) or len(maps) != len(class_index):
        raise ValueError(
            f"maps: expected {len(class_index)} maps (H, W) or stacks (m, H, W), got {maps.shape}"
        )
    if threshold <= 0:
        raise ValueError(f"threshold: expected a positive value, got {threshold}")
    parts: list[Points] = []
    for row in np.argsort(np.asarray(class_index), kind="stable"):
        for map_index, heat in enumerate(maps[row] if maps.ndim == 4 else maps[row : row + 1]):
            # Nothing is emitted below the threshold, so the maps of absent classes need no search.
            if heat.size == 0 or heat.max() < np.float32(threshold):
                continue
            found = find_peaks(heat, window=window, max_points=max_points, emit_fillers=emit_fillers)
            parts.append(_as_points(above_threshold(found, threshold), class_index[row], map_index))
    return Points.concatenate(parts)


def _as_points(peaks: Peaks, class_index: int, map_index: int) -> Points:
    return Points(
        np.stack([peaks.columns, peaks.rows], axis=1).astype(np.int32),
        np.full(len(peaks), class_index, dtype=np.int32),
        peaks.values,
        np.full(len(peaks), map_index, dtype=np.int16),
    )
