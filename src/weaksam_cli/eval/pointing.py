"""The pointing game: how many peaks lie inside boxes, and what somebody gets who has not looked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.maps import pixels_inside
from weaksam_cli.eval.matching import in_order

Sizes = Mapping[str, tuple[int, int]]
"""Image key to height and width in pixels."""


def evaluate(case: Case, _: RecipeModel) -> list[Metric]:
    """Shares of peaks inside a box of their class, the best of each class and all, by kind; with the plain artifact, chance.

    Peaks that lost their class when they were clustered may lie in a box of any.
    """
    by_kind: dict[str, dict[str, Points]] = {kind: {} for kind in KINDS}
    with open_artifact_of(case.labels, case.path, POINTS) as artifact:
        for key in artifact:
            for kind, points in read_points(artifact, key).items():
                by_kind[kind][key] = points
    found = [metric for kind, points in by_kind.items() for metric in peak_metrics(case, kind, points)]
    lost = any((item.class_index < 0).any() for points in by_kind.values() for item in points.values())
    return found if case.variant else found + chance_metrics(case, unclassed=lost)


def peak_metrics(case: Case, kind: str, points: Mapping[str, Points]) -> list[Metric]:
    """The lines of one kind of peaks; none for a kind without any."""
    count = sum(len(item) for item in points.values())
    if count == 0:
        return []
    found, (hits, unclassed) = [], unclassed_inside(case.truth, points)
    if unclassed < count:
        for name, only_best in (("best peak", True), ("all peaks", False)):
            shares = peaks_inside(case.truth, points, case.class_names, only_best=only_best)
            found.append(case.per_class(f"{kind}: {name} inside a box", shares))
    if unclassed:
        found.append(case.metric(f"{kind}: peak inside a box of any class", hits / unclassed))
    return [*found, case.metric(f"{kind}: peaks an image", count / max(len(points), 1), share=False)]


def chance_metrics(case: Case, *, unclassed: bool) -> list[Metric]:
    """What the peaks have to beat: any pixel, and the image's centre; with `unclassed`, in a box of any class, too."""
    chance = replace(case, stage="baseline")
    pixels, centres = chance_inside(case.truth, case.sizes, case.class_names)
    found = [
        chance.per_class("peak inside a box: any pixel", pixels),
        chance.per_class("peak inside a box: centre of the image", centres),
    ]
    if unclassed:
        share = any_pixel_inside_any(case.truth, case.sizes)
        found.append(chance.metric("peak inside a box of any class: any pixel", share))
    return found


def _images(truth: Truth, points: Mapping[str, Points]) -> Iterator[tuple[GroundTruth, Points]]:
    ordered = in_order(truth, points, Points.empty(), name="points")
    return zip(truth.values(), ordered, strict=True)


def _within(points: Points, objects: GroundTruth) -> NDArray[np.bool_]:
    """Bool (points, objects): whether the centre of a pixel is in a box."""
    centres = points.xy[:, None].astype(np.float32) + np.float32(0.5)
    reached = (centres >= objects.boxes[None, :, :2]) & (centres < objects.boxes[None, :, 2:])
    return np.asarray(reached.all(axis=2))


def peaks_inside(
    truth: Truth, points: Mapping[str, Points], class_names: Sequence[str], *, only_best: bool
) -> PerClass:
    """Share of the points that lie inside a box of their class.

    Difficult objects may be hit. Points without a class (-1) are left out.

    Args:
        truth: image key to objects.
        points: image key to points; a point stands for the centre of its pixel.
        class_names: names of the classes, in the order of the class indexes.
        only_best: take the point of the highest value for every image and class (the pointing game; of equal
            ones the first); otherwise take all points.

    Returns:
        Shares; the support is the number of points.

    Raises:
        UserError: for points of an image that the ground truth does not hold.
    """
    total, hits = np.zeros((2, len(class_names)), dtype=np.int64)
    for objects, found in _images(truth, points):
        rows = _best_rows(found) if only_best else np.flatnonzero(found.class_index >= 0)
        classes = found.class_index[rows]
        right = _within(found, objects)[rows] & (classes[:, None] == objects.class_index)
        np.add.at(total, classes, 1)
        np.add.at(hits, classes, right.any(axis=1))
    return PerClass.ratio(class_names, hits, total)


def _best_rows(points: Points) -> NDArray[np.int64]:
    order = np.argsort(-points.value, kind="stable")
    classes, first = np.unique(points.class_index[order], return_index=True)
    best: NDArray[np.int64] = order[first[classes >= 0]]
    return best


def unclassed_inside(truth: Truth, points: Mapping[str, Points]) -> tuple[int, int]:
    """How many of the points without a class (-1) lie inside a box of any class, and how many there are.

    Raises:
        UserError: for points of an image that the ground truth does not hold.
    """
    hits = total = 0
    for objects, found in _images(truth, points):
        lost = found.class_index < 0
        total += int(lost.sum())
        hits += int(_within(found, objects)[lost].any(axis=1).sum())
    return hits, total


def chance_inside(truth: Truth, sizes: Sizes, class_names: Sequence[str]) -> tuple[PerClass, PerClass]:
    """What a peak anywhere, and one in the centre of the image, gets; means over the images that show a class.

    Returns:
        Share of an image's pixels inside the boxes of a class; share of the images whose centre lies inside one of them.
    """
    pixels, centres = [], []
    for key, objects in truth.items():
        height, width = sizes[key]
        for index in np.unique(objects.class_index).tolist():
            inside = pixels_inside(objects.boxes[objects.class_index == index], height, width)
            pixels.append((index, float(inside.mean())))
            centres.append((index, float(inside[height // 2, width // 2])))
    return PerClass.means(class_names, pixels), PerClass.means(class_names, centres)


def any_pixel_inside_any(truth: Truth, sizes: Sizes) -> float | None:
    """Share of an image's pixels inside its boxes of all classes, mean over the images that have any; None for none."""
    shares = [
        float(pixels_inside(objects.boxes, *sizes[key]).mean())
        for key, objects in truth.items()
        if len(objects)
    ]
    return float(np.mean(shares)) if shares else None
