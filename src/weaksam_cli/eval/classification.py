"""Mean average precision of image-level classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.eval.matching import in_order
from weaksam_cli.eval.results import PerClass
from weaksam_cli.eval.voc_ap import eleven_point

Metric = Literal["non-interpolated", "11point"]
Float64Array = NDArray[np.float64]


def classification_ap(
    labels: Mapping[str, NDArray[np.bool_]],
    scores: Mapping[str, NDArray[np.floating]],
    class_names: Sequence[str],
    *,
    metric: Metric = "non-interpolated",
) -> PerClass:
    """Average precision of every class over the images.

    Args:
        labels: image key to bool (classes,).
        scores: image key to float (classes,); every image of `labels` needs them.
        class_names: names of the classes.
        metric: `non-interpolated` is scikit-learn's `average_precision_score`; `11point` is VOC07's.

    Returns:
        Average precision, NaN for a class without positive images; the support is the number of positive ones.

    Raises:
        UserError: for scores of an image without a label.
        ValueError: for an image without scores, other numbers of classes, or NaN.
    """
    n_classes = len(class_names)
    missing = np.full(n_classes, np.nan)
    truth = np.reshape([*labels.values()], (len(labels), n_classes)).astype(bool)
    ordered = in_order(labels, scores, missing, name="scores")
    table = np.reshape([*ordered], (len(labels), n_classes)).astype(np.float64)
    if np.isnan(table).any():
        key = list(labels)[int(np.isnan(table).any(axis=1).argmax())]
        raise ValueError(f"scores: expected a number for every class of {key!r}, got NaN or no scores")
    values = [_average_precision(truth[:, c], table[:, c], metric) for c in range(n_classes)]
    return PerClass.of(class_names, values, truth.sum(axis=0))


def _average_precision(positive: NDArray[np.bool_], scores: Float64Array, metric: Metric) -> float:
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # Images of equal score enter together, so that their order does not matter.
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    true = np.cumsum(positive[order])[last]
    precision, recall = true / (last + 1), true / positive.sum()
    if metric == "11point":
        return eleven_point(precision, recall)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
