"""What the pointing game gives to somebody who has not looked: any pixel, or the centre of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.eval.peaks_inside import peaks_inside
from weaksam_cli.eval.results import PerClass


def any_pixel_inside(
    ground_truth: Mapping[str, GroundTruth],
    sizes: Mapping[str, tuple[int, int]],
    class_names: Sequence[str],
) -> PerClass:
    """Share of an image's pixels inside the boxes of a class, mean over the images that show the class.

    Args:
        ground_truth: image key to objects.
        sizes: image key to height and width in pixels.
        class_names: names of the classes, in the order of the class indexes.

    Returns:
        Shares; the support is the number of images.
    """
    total, shares = np.zeros(len(class_names), np.int64), np.zeros(len(class_names))
    for key, objects in ground_truth.items():
        for index in np.unique(objects.class_index):
            total[index] += 1
            shares[index] += _covered(objects.boxes[objects.class_index == index], sizes[key])
    means = np.divide(shares, total, out=np.full(len(total), np.nan), where=total > 0)
    return PerClass.of(class_names, means, total)


def any_pixel_inside_any(
    ground_truth: Mapping[str, GroundTruth], sizes: Mapping[str, tuple[int, int]]
) -> float | None:
    """Share of an image's pixels inside its boxes of all classes, mean over the images that have any; None for none."""
    shares = [
        _covered(objects.boxes, sizes[key])
        for key, objects in ground_truth.items()
        if len(objects.class_index)
    ]
    return float(np.mean(shares)) if shares else None


def _covered(boxes: FloatArray, size: tuple[int, int]) -> float:
    """Share of an image's pixels that lie in at least one of the boxes."""
    inside = np.zeros(size, bool)
    for x1, y1, x2, y2 in np.rint(boxes).astype(np.int64):
        inside[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return float(inside.mean())


def centre_inside(
    ground_truth: Mapping[str, GroundTruth],
    sizes: Mapping[str, tuple[int, int]],
    class_names: Sequence[str],
) -> PerClass:
    """Share of the images that show a class whose centre lies inside one of its boxes; see `any_pixel_inside`."""
    return peaks_inside(
        ground_truth,
        {key: _centre(np.unique(objects.class_index), sizes[key]) for key, objects in ground_truth.items()},
        class_names,
    )


def _centre(classes: np.ndarray, size: tuple[int, int]) -> Points:
    count = len(classes)
    return Points(
        np.tile(np.asarray([size[1] // 2, size[0] // 2], np.int32), (count, 1)),
        classes.astype(np.int32),
        np.ones(count, np.float32),
        np.zeros(count, np.int16),
    )
