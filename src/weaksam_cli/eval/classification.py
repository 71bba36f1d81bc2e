"""Mean average precision of image-level classification, by the network that made the maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import cam_schema
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.eval.case import Case, Metric, PerClass


def evaluate(case: Case, _: RecipeModel) -> list[Metric]:
    """Over the images whose labels are known; needs no boxes."""
    names = case.class_names
    labels = {
        image.key: np.isin(np.arange(len(names)), case.labels.class_indexes(image))
        for image in case.labels.file.images
        if image.labels is not None
    }
    with open_artifact(case.path, cam_schema(len(names))) as artifact:
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
