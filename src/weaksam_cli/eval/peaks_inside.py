"""How well class activation maps point at objects: the pointing game, and the energy inside boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.eval.class_maps import ClassMaps
from weaksam_cli.eval.matching import check_classes, in_order
from weaksam_cli.eval.results import PerClass


def peaks_inside(
    ground_truth: Mapping[str, GroundTruth],
    points: Mapping[str, Points],
    class_names: Sequence[str],
    *,
    only_best: bool = True,
) -> PerClass:
    """Share of the points that lie inside a box of their class.

    Difficult objects may be hit. Points without a class (-1) are left out.

    Args:
        ground_truth: image key to objects.
        points: image key to points; a point stands for the centre of its pixel.
        class_names: names of the classes, in the order of the class indexes.
        only_best: take the point of the highest value for every image and class (the pointing game; of equal
            ones the first); otherwise take all points.

    Returns:
        Shares; the support is the number of points.

    Raises:
        UserError: for points of an image that the ground truth does not hold.
        ValueError: for classes outside `class_names`.
    """
    total, hits = np.zeros((2, len(class_names)), dtype=np.int64)
    ordered = in_order(ground_truth, points, Points.empty(), name="points")
    for objects, found in zip(ground_truth.values(), ordered, strict=True):
        rows = _best_rows(found) if only_best else np.flatnonzero(found.class_index >= 0)
        classes = found.class_index[rows].astype(np.int64)
        check_classes(classes, len(class_names), name="points")
        same_class = classes[:, None] == objects.class_index
        np.add.at(total, classes, 1)
        np.add.at(hits, classes, (_within(found.xy[rows], objects.boxes) & same_class).any(axis=1))
    return PerClass.ratio(class_names, hits, total)


def unclassed_inside(
    ground_truth: Mapping[str, GroundTruth], points: Mapping[str, Points]
) -> tuple[int, int]:
    """How many of the points without a class (-1) lie inside a box of any class.

    Args:
        ground_truth: image key to objects.
        points: image key to points; a point stands for the centre of its pixel.

    Returns:
        Points inside, and all points without a class.

    Raises:
        UserError: for points of an image that the ground truth does not hold.
    """
    hits = total = 0
    ordered = in_order(ground_truth, points, Points.empty(), name="points")
    for objects, found in zip(ground_truth.values(), ordered, strict=True):
        places = found.xy[found.class_index < 0]
        total += len(places)
        hits += int(_within(places, objects.boxes).any(axis=1).sum())
    return hits, total


def _within(xy: NDArray[np.int32], boxes: FloatArray) -> NDArray[np.bool_]:
    """Bool (points, boxes): whether the centre of a pixel is in a box."""
    centres = xy[:, None].astype(np.float32) + np.float32(0.5)
    reached = (centres >= boxes[None, :, :2]) & (centres < boxes[None, :, 2:])
    return np.asarray(reached.all(axis=2))


def _best_rows(points: Points) -> NDArray[np.int64]:
    order = np.argsort(-points.value, kind="stable")
    classes, first = np.unique(points.class_index[order], return_index=True)
    best: NDArray[np.int64] = order[first[classes >= 0]]
    return best


def energy_inside(
    ground_truth: Mapping[str, GroundTruth], maps: Mapping[str, ClassMaps], class_names: Sequence[str]
) -> PerClass:
    """Mean over the maps of a class of the share of a map's sum that lies inside the boxes of the class.

    A map is read as constant within a cell; a pixel is inside when its centre is. Negative values count as 0, and
    a map without energy has the share 0.

    Args:
        ground_truth: image key to objects.
        maps: image key to maps; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.

    Returns:
        Shares; the support is the number of maps.

    Raises:
        UserError: for maps of an image that the ground truth does not hold.
        ValueError: for classes outside `class_names`.
    """
    in_order(ground_truth, maps, None, name="maps")
    total, shares = np.zeros(len(class_names), dtype=np.int64), np.zeros(len(class_names))
    for key, image in maps.items():
        check_classes(image.class_index.astype(np.int64), len(class_names), name="maps")
        objects = ground_truth[key]
        for class_index, heat in zip(image.class_index, image.maps, strict=True):
            weight = _covered(objects.boxes[objects.class_index == class_index], image)
            positive = np.maximum(heat.astype(np.float64), 0)
            cells = _cell_pixels(image)
            energy = float((positive * cells).sum())
            total[class_index] += 1
            shares[class_index] += float((positive * weight).sum()) / energy if energy > 0 else 0.0
    means = np.divide(shares, total, out=np.full(len(total), np.nan), where=total > 0)
    return PerClass.of(class_names, means, total)


def _cells(image: ClassMaps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of the map under every row of the image, and the same for columns."""
    height, width = image.maps.shape[1:]
    rows = ((np.arange(image.height) + 0.5) * height / image.height).astype(np.int64)
    columns = ((np.arange(image.width) + 0.5) * width / image.width).astype(np.int64)
    return rows, columns


def _cell_pixels(image: ClassMaps) -> NDArray[np.float64]:
    """Pixels of the image in every cell of the map, (h, w)."""
    rows, columns = _cells(image)
    height, width = image.maps.shape[1:]
    counts = np.outer(np.bincount(rows, minlength=height), np.bincount(columns, minlength=width))
    return counts.astype(np.float64)


def _covered(boxes: FloatArray, image: ClassMaps) -> NDArray[np.float64]:
    """Pixels in every cell of the map (h, w) whose centre lies in one of the boxes."""
    inside = np.zeros((image.height, image.width), dtype=bool)
    for x1, y1, x2, y2 in np.ceil(boxes - np.float32(0.5)).astype(np.int64):
        inside[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    rows, columns = _cells(image)
    height, width = image.maps.shape[1:]
    by_row = np.zeros((height, image.width))
    np.add.at(by_row, rows, inside)
    weight = np.zeros((width, height))
    np.add.at(weight, columns, by_row.T)
    return weight.T
