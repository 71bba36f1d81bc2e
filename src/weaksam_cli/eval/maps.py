"""Class activation maps: how well their network classifies, and how much of their energy lies inside boxes of the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.class_maps import cam_schema
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.fused_maps import FusedMaps
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.matching import in_order


def evaluate(case: Case, _: RecipeModel) -> list[Metric]:
    """How well their network classifies the images, and a share of energy a kind of maps where there are boxes."""
    found = classification(case)
    for kind, maps in case.maps(case.path).items() if case.truth else ():
        energy = energy_inside(case.truth, maps, case.class_names)
        found.append(case.per_class(f"energy of {kind} maps inside boxes", energy))
    return found


def classification(case: Case) -> list[Metric]:
    """Mean average precision over the images whose labels are known; it needs no boxes."""
    names = case.class_names
    labels = case.labels.known_classes()
    with open_artifact_of(case.labels, case.path, cam_schema(len(names))) as artifact:
        scores = {
            key: artifact.image_value(key, "class_scores").astype(np.float32)
            for key in artifact
            if key in labels
        }
    if not scores:
        return []
    truth = np.stack([labels[key] for key in scores])
    ap = classification_ap(truth, np.stack([*scores.values()]), names)
    return [case.per_class("classification mAP", ap)]


def classification_ap(
    truth: NDArray[np.bool_], scores: NDArray[np.floating], class_names: Sequence[str]
) -> PerClass:
    """Average precision of every class from labels bool (images, classes) and scores (images, classes), without NaN.

    Returns:
        Average precision, NaN for a class without positive images; the support is the number of positive ones.
    """
    from sklearn.metrics import average_precision_score

    values = [
        float(average_precision_score(positive, own)) if positive.any() else float("nan")
        for positive, own in zip(truth.T, scores.T, strict=True)
    ]
    return PerClass.of(class_names, values, truth.sum(axis=0))


def energy_inside(truth: Truth, maps: Mapping[str, FusedMaps], class_names: Sequence[str]) -> PerClass:
    """Mean over the maps of a class of the share of a map's sum that lies inside the boxes of the class.

    A map is read as constant within a cell; a pixel is inside when its centre is. Negative values count as 0, and
    a map without energy has the share 0.

    Args:
        truth: image key to objects.
        maps: image key to maps; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.

    Returns:
        Shares; the support is the number of maps.

    Raises:
        UserError: for maps of an image that the ground truth does not hold.
    """
    in_order(truth, maps, None, name="maps")
    shares: list[tuple[int, float]] = []
    for key, image in maps.items():
        height, width = image.maps.shape[1:]
        objects, in_rows, in_columns = truth[key], _cells(image.height, height), _cells(image.width, width)
        cells = np.outer(in_rows.sum(axis=1), in_columns.sum(axis=1))
        for class_index, heat in zip(image.class_index, image.maps, strict=True):
            inside = pixels_inside(
                objects.boxes[objects.class_index == class_index], image.height, image.width
            )
            positive = np.maximum(heat.astype(np.float64), 0)
            energy = float((positive * cells).sum())
            covered = float((positive * (in_rows @ inside @ in_columns.T)).sum())
            shares.append((int(class_index), covered / energy if energy > 0 else 0.0))
    return PerClass.means(class_names, shares)


def pixels_inside(boxes: FloatArray, height: int, width: int) -> NDArray[np.bool_]:
    """Bool (height, width): whose centre lies in one of the boxes."""
    inside = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in np.ceil(boxes - np.float32(0.5)).astype(np.int64):
        inside[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return inside


def _cells(pixels: int, cells: int) -> NDArray[np.float32]:
    """1 where the centre of a pixel of an axis lies in a cell, else 0: (cells, pixels); sums of them are exact."""
    cell_of_pixel = ((np.arange(pixels) + 0.5) * cells / pixels).astype(np.int64)
    return (np.arange(cells)[:, None] == cell_of_pixel).astype(np.float32)
