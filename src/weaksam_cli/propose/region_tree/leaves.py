"""The leaves of the trees: what is known of every region of an over-segmentation and of every common border."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from weaksam_cli.propose.region_tree.pixels import COLOUR_BINS, TEXTURE_BINS, Bins, PixelFeatures

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Borders:
    """Pairs of regions that touch.

    Attributes:
        pairs: int64 (e, 2), the two regions, the lower index first, pairs in ascending order.
        length: float32 (e,), pixels along the border.
        strength: float32 (e,), gradient summed along the border.
    """

    pairs: IntArray
    length: FloatArray
    strength: FloatArray


@dataclass(frozen=True)
class Leaves:
    """Regions of one over-segmentation of an image of h x w pixels.

    Attributes:
        labels: int32 (h, w), the region of every pixel.
        size: float32 (n,), areas in pixels.
        boxes: float32 (n, 4), xyxy pixel edges.
        lab, hsv, texture: float32 (n, bins), histograms that sum to 1.
        borders: the regions that touch.
    """

    labels: NDArray[np.int32]
    size: FloatArray
    boxes: FloatArray
    lab: FloatArray
    hsv: FloatArray
    texture: FloatArray
    borders: Borders

    def __len__(self) -> int:
        return len(self.size)


def describe(labels: NDArray[np.int32], features: PixelFeatures) -> Leaves:
    """Measure every region of `labels`."""
    count = int(labels.max()) + 1
    flat = labels.ravel()
    return Leaves(
        labels=labels,
        size=np.bincount(flat, minlength=count).astype(np.float32),
        boxes=_boxes(labels),
        lab=_histogram(flat, features.lab, count, COLOUR_BINS),
        hsv=_histogram(flat, features.hsv, count, COLOUR_BINS),
        texture=_histogram(flat, features.texture, count, TEXTURE_BINS),
        borders=_borders(labels, features.gradient, count),
    )


def join(pairs: IntArray, length: FloatArray, strength: FloatArray, count: int) -> Borders:
    """Sum what is known of every pair: duplicates become one, either order of the two is the same pair."""
    key = pairs.min(axis=1) * count + pairs.max(axis=1)
    unique, inverse = np.unique(key, return_inverse=True)
    n = len(unique)
    return Borders(
        np.stack([unique // count, unique % count], axis=1),
        np.bincount(inverse, length, minlength=n).astype(np.float32),
        np.bincount(inverse, strength, minlength=n).astype(np.float32),
    )


def _histogram(flat: NDArray[np.int32], bins: Bins, count: int, n_bins: int) -> FloatArray:
    start = flat * n_bins
    channels = [
        np.bincount(start + channel, minlength=count * n_bins).reshape(count, n_bins) for channel in bins
    ]
    stacked = np.concatenate(channels, axis=1).astype(np.float32)
    normalised: FloatArray = stacked / stacked.sum(axis=1, keepdims=True)
    return normalised


def _boxes(labels: NDArray[np.int32]) -> FloatArray:
    slices = find_objects(labels + 1)
    edges = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return np.asarray(edges, np.float32)


def _borders(labels: NDArray[np.int32], gradient: FloatArray, count: int) -> Borders:
    pairs, strengths = [], []
    for first, second in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        differs = labels[first] != labels[second]
        pairs.append(np.stack([labels[first][differs], labels[second][differs]], axis=1).astype(np.int64))
        strengths.append(np.maximum(gradient[first][differs], gradient[second][differs]))
    strength = np.concatenate(strengths)
    return join(np.concatenate(pairs), np.ones(len(strength), np.float32), strength, count)
