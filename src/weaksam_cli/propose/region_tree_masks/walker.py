"""Inside or outside: a random walker over the leaves of an image, whose priors come from what is inside and outside a box.

Grady, "Multilabel random walker image segmentation using prior models" (CVPR 2005), on regions. As GrabCut does, it makes
the models of inside and outside anew from its own answer; they are densities over all leaves, not mixtures of Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.propose.region_tree.leaves import Leaves
from weaksam_cli.propose.region_tree_masks import BoxSettings

Float64Array = NDArray[np.float64]
_SQUARENESS = 3
"""Exponent of the superellipse along which the prior is constant: between an ellipse, 2, and the box."""
_LEAST_DENSITY = 1e-6


@dataclass(frozen=True)
class Window:
    """A box prompt on whole working pixels, one at least: rows top to bottom, columns left to right, ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of_box(cls, box: FloatArray, height: int, width: int) -> Window:
        """The pixels whose centres are in the box (4,), or else the nearest one."""
        left, top, right, bottom = (int(edge) for edge in np.rint(box))
        left, top = min(left, width - 1), min(top, height - 1)
        return cls(top, max(bottom, top + 1), left, max(right, left + 1))

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Index of its pixels in an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def prior(self, centre: float, fall: float) -> FloatArray:
        """Logit that a pixel is of the object before anything is seen, float32 (rows, columns)."""
        down, across = (
            np.abs((np.arange(n) + 0.5) / n * 2 - 1) ** _SQUARENESS
            for n in (self.bottom - self.top, self.right - self.left)
        )
        squared_radius = (down[:, None] + across) ** (2 / _SQUARENESS)
        return np.asarray(centre - fall * np.minimum(squared_radius, 2), np.float32)


def similarity(distances: list[tuple[float, FloatArray]], bandwidth: float) -> FloatArray:
    """How alike n leaves are, float32 (n, n) in (0, 1], 1 on the diagonal, of weighted squared distances (n, n)."""
    total = np.float32(sum(weight for weight, _ in distances))
    mean = sum((np.float32(weight) / total * item for weight, item in distances), np.float32(0))
    return np.asarray(np.exp(np.float32(-bandwidth) * mean), np.float32)


def squared_distances(features: FloatArray) -> FloatArray:
    """Between n rows (n, c), over their median, float32 (n, n); 0 where all rows are the same."""
    squares = (features * features).sum(axis=1)
    product = features @ features.T
    # Rounding leaves some of 1e-6 where two rows are the same, which would be all there is in an image of one colour.
    noise = np.float32(1e-6) * max(squares.max(), np.float32(1e-12))
    distance = squares[:, None] + squares - 2 * product
    distance[distance <= noise] = 0
    positive = distance[distance > 0]
    return np.asarray(distance / np.median(positive) if positive.size else distance, np.float32)


def directions(features: FloatArray) -> FloatArray:
    """Rows (n, c) at unit length; rows of zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.float32(1e-12)), np.float32)


def walk(leaves: Leaves, alike: FloatArray, window: Window, settings: BoxSettings) -> FloatArray:
    """Probability of every leaf that it is of the object, float32 (n,); 0 for leaves of which most is outside the box.

    Args:
        leaves: of the image; strengths of borders are those of edges in [0, 1].
        alike: float32 (n, n), from `similarity`.
        window: the box.
        settings: how.
    """
    size = leaves.size.astype(np.float64)
    crop = leaves.labels[window.pixels]
    prior = window.prior(settings.centre_logit, settings.logit_fall)
    inside = np.bincount(crop.ravel(), minlength=len(leaves)).astype(np.float64)
    prior_sum = np.bincount(crop.ravel(), prior.ravel(), minlength=len(leaves))
    active = np.flatnonzero(inside * 2 > size)
    if not len(active):
        active = np.flatnonzero(inside)
    logit = prior_sum[active] / inside[active]
    solve = splu(_laplacian(leaves, active, settings)).solve
    pull = settings.restart * inside[active]
    answer = np.zeros(len(leaves))
    answer[active] = solve(pull * _sigmoid(logit))
    for _ in range(settings.rounds):
        evidence = _log_ratio(alike[active], active, answer * inside, size)
        answer[active] = solve(pull * _sigmoid(logit + evidence))
    return np.asarray(answer.clip(0, 1), np.float32)


def _laplacian(leaves: Leaves, active: NDArray[np.int64], settings: BoxSettings) -> sparse.csc_matrix:
    """What the walker's answer is the solution of, among active leaves; all others are background."""
    borders = leaves.borders
    strength = borders.strength / np.maximum(borders.length, 1)
    weight = (borders.length * np.exp(-settings.edge_decay * strength)).astype(np.float64)
    first, second = borders.pairs.T
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    n = len(leaves)
    links = sparse.coo_matrix((np.concatenate([weight, weight]), (rows, columns)), (n, n)).tocsr()
    leaving = np.asarray(links.sum(axis=1)).ravel() + settings.restart * leaves.size
    return sparse.csc_matrix(sparse.diags(leaving[active]) - links[active][:, active])


def _log_ratio(
    alike: FloatArray, active: NDArray[np.int64], foreground: Float64Array, size: Float64Array
) -> Float64Array:
    """Log of the density of the object's look over that of the rest, at the active leaves (a,).

    No leaf is a witness for itself.

    Args:
        alike: float32 (a, n), of the active leaves to all.
        active: int64 (a,).
        foreground: float64 (n,), pixels of each leaf that are taken for the object.
        size: float64 (n,), pixels of each leaf.
    """
    masses = np.stack([foreground, size - foreground], axis=1)
    others = (alike @ masses.astype(np.float32)).astype(np.float64) - masses[active]
    density = np.maximum(others, 0) / np.maximum(masses.sum(axis=0), _LEAST_DENSITY) + _LEAST_DENSITY
    return np.asarray(np.log(density[:, 0] / density[:, 1]))


def _sigmoid(logit: Float64Array) -> Float64Array:
    return np.asarray(1 / (1 + np.exp(-logit)))
