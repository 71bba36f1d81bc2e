"""Mean average precision of image-level classification, by the network that made the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import cam_schema
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.eval.case import Case, Metric, PerClass
from weaksam_cli.eval.matching import in_order

Float64Array = NDArray[np.float64]


def evaluate(case: Case, _: RecipeModel) -> list[Metric]:
    """Over the images whose labels are known; needs no boxes."""
    labels = {
        image.key: np.isin(np.arange(len(case.class_names)), case.labels.class_indexes(image))
        for image in case.labels.file.images
        if image.labels is not None
    }
    with open_artifact(case.path, cam_schema(len(case.class_names))) as artifact:
        scores = {
            key: artifact.image_value(key, "class_scores").astype(np.float32)
            for key in artifact
            if key in labels
        }
    if not scores:
        return []
    known = {key: labels[key] for key in scores}
    return [case.per_class("classification mAP", classification_ap(known, scores, case.class_names))]


def classification_ap(
    labels: Mapping[str, NDArray[np.bool_]],
    scores: Mapping[str, NDArray[np.floating]],
    class_names: Sequence[str],
) -> PerClass:
    """Average precision of every class over the images, as scikit-learn's `average_precision_score`.

    Args:
        labels: image key to bool (classes,).
        scores: image key to float (classes,); every image of `labels` needs them.
        class_names: names of the classes.

    Returns:
        Average precision, NaN for a class without positive images; the support is the number of positive ones.

    Raises:
        UserError: for scores of an image without a label.
        ValueError: for an image without scores, other numbers of classes, or NaN.
    """
    n_classes = len(class_names)
    truth = np.reshape([*labels.values()], (len(labels), n_classes)).astype(bool)
    ordered = in_order(labels, scores, np.full(n_classes, np.nan), name="scores")
    table = np.reshape([*ordered], (len(labels), n_classes)).astype(np.float64)
    if np.isnan(table).any():
        key = list(labels)[int(np.isnan(table).any(axis=1).argmax())]
        raise ValueError(f"scores: expected a number for every class of {key!r}, got NaN or no scores")
    values = [_average_precision(truth[:, c], table[:, c]) for c in range(n_classes)]
    return PerClass.of(class_names, values, truth.sum(axis=0))


def _average_precision(positive: NDArray[np.bool_], scores: Float64Array) -> float:
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # Images of equal score enter together, so that their order does not matter.
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    true = np.cumsum(positive[order])[last]
    precision, recall = true / (last + 1), true / positive.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
