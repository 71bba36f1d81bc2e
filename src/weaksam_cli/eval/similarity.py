"""How alike RoIs are to a network: cosines of their features, and what that says of proposals (spec 07 §6, Fig. 1)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, area
from weaksam_cli.training.batches import generator_of

IntArray = NDArray[np.int64]
_COLOURS = 20
"""Few colours, and with them a small palette, keep the many single cells of a plot below 200 kB."""


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


def largest_first(boxes: FloatArray, min_side: float) -> FloatArray:
    """Boxes (n, 4) with no side below `min_side`, by decreasing area, so that heat maps have an order to show."""
    large = boxes[((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(axis=1)]
    return large[np.argsort(-area(large), kind="stable")]


def comparison(
    names: Sequence[str], cosines: NDArray[np.floating], overlaps: NDArray[np.floating]
) -> list[dict[str, Any]]:
    """The sets of proposals side by side, as JSON; None for what nobody knows.

    Args:
        names: of the sets.
        cosines: (images, sets), mean cosine off the diagonal; NaN where an image has fewer than two boxes of a set.
        overlaps: (images, sets), the mean IoU of the same boxes.

    Returns:
        For each set the mean and deviation over the images, the mean IoU, and how much lower the mean cosine is than the
        first set's in the same images: mean, standard error, and the share of images in which it is lower.
    """
    told = []
    for index, name in enumerate(names):
        known = np.isfinite(cosines[:, [0, index]]).all(axis=1)
        own, lower = cosines[known, index], cosines[known, 0] - cosines[known, index]
        there = len(own) > 0
        told.append(
            {
                "set": name,
                "images": len(own),
                "mean": float(own.mean()) if there else None,
                "deviation": float(own.std()) if there else None,
                "mean_iou": float(overlaps[known, index].mean()) if there else None,
                "lower": float(lower.mean()) if there else None,
                "lower_error": float(lower.std() / np.sqrt(len(lower))) if there else None,
                "lower_share": float((lower > 0).mean()) if there else None,
            }
        )
    return told


def draw_matrices(matrices: Mapping[str, FloatArray], title: str) -> bytes:
    """Cosine matrices of one image side by side, as a PNG.

    Args:
        matrices: name of the set -> (n, n); at least one.
        title: above them.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(4.2 * len(matrices) + 0.8, 4.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    colours = colormaps["viridis"].resampled(_COLOURS)
    low = min(0.0, *(float(item.min(initial=0)) for item in matrices.values()))
    for (name, matrix), panel in zip(matrices.items(), axes, strict=True):
        shown = panel.imshow(matrix, vmin=low, vmax=1, cmap=colours, interpolation="nearest")
        panel.set_title(f"{name}: mean {mean_off_diagonal(matrix):.3f} off the diagonal", fontsize="medium")
        panel.set_xlabel("proposal, the largest first")
    axes[0].set_ylabel("proposal, the largest first")
    figure.colorbar(shown, ax=axes, label="cosine similarity of RoI features", shrink=0.9)
    figure.suptitle(title)
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(128).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()
