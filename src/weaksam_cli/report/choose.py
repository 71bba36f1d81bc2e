"""Which boxes are shown, and which images: pure functions on detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data.labels import Labels
from weaksam_cli.eval.matching import IGNORED, PIXEL_EDGES, TRUE, match_detections

Ranks = NDArray[np.float64]


def ranks(found: Mapping[str, Detections]) -> dict[str, Ranks]:
    """For every box how many of the split have a better score, divided by the number of images.

    A threshold on it admits so many boxes an image on average, whatever the detector's scores mean: those of a weakly
    supervised and of a retrained detector are not of one scale.

    Returns:
        Image key to float64 (n,).
    """
    scores = np.concatenate([np.zeros(0, np.float32), *(item.scores for item in found.values())])
    order = np.argsort(-scores, kind="stable")
    place = np.empty(len(scores), np.float64)
    place[order] = np.arange(len(scores)) / max(len(found), 1)
    ends = np.cumsum([len(item) for item in found.values()])
    return dict(zip(found, np.split(place, ends[:-1]) if len(ends) else [], strict=True))


def boxes_an_image(pseudo_boxes: Mapping[str, Detections] | None, labels: Labels) -> float:
    """How many boxes an image are shown at first: as many as there are pseudo boxes, else 1.5 a label, else 2."""
    if pseudo_boxes:
        mean = sum(map(len, pseudo_boxes.values())) / len(pseudo_boxes)
    else:
        known = [len(image.labels) for image in labels.file.images if image.labels is not None]
        mean = 1.5 * sum(known) / len(known) if known else 2.0
    return round(min(max(mean, 0.5), 6.0), 1)


def shown(found: Mapping[str, Detections], most: float) -> dict[str, Detections]:
    """The boxes that a number of boxes an image admits."""
    places = ranks(found)
    return {key: item.take(places[key] < most) for key, item in found.items()}


def confidences(found: Mapping[str, Detections], labels: Labels) -> dict[str, float]:
    """How sure a detector is of an image: the mean, over the image's labels, of the best score of each; 0 for none.

    Without labels it is the best score of all.
    """
    sure = {}
    for image in labels.file.images:
        item = found[image.key]
        best = item.best_scores(len(labels.class_names))
        wanted = labels.class_indexes(image)
        sure[image.key] = float(best[wanted].mean() if wanted else best.max(initial=0))
    return sure


def found_objects(truth: GroundTruth, boxes: Detections) -> tuple[int, int, int]:
    """Objects that are found as `eval` counts them (IoU .5), objects, and boxes; what is difficult does not count."""
    n_classes = 1 + max(truth.class_index.max(initial=0), boxes.class_index.max(initial=0))
    matches = match_detections({"": truth}, {"": boxes}, int(n_classes), PIXEL_EDGES)
    hits, counted = (matches.status == TRUE).sum(), (matches.status != IGNORED).sum()
    return int(hits), int(matches.n_objects.sum()), int(counted)


def agreement(hits: int, objects: int, boxes: int) -> float:
    """F1 of the boxes of an image; 1 where there is nothing to find and nothing was said."""
    return 2 * hits / (objects + boxes) if objects + boxes else 1.0


def first_by(values: Mapping[str, float], most: int, *, highest: bool = False) -> list[str]:
    """Keys with the lowest (highest) values; equal ones in the order of the keys."""
    sign = -1 if highest else 1
    return sorted(values, key=lambda key: (sign * values[key], key))[:most]


def one_of_each_class(
    chosen: Sequence[str], sure: Mapping[str, float], labels: Labels, most: int
) -> list[str]:
    """The surest image of every class that none of the chosen ones shows."""
    images = labels.by_key()
    covered = {name for key in chosen for name in images[key].labels or ()}
    more: list[str] = []
    for name in labels.class_names:
        if name in covered or len(more) >= most:
            continue
        having = {key: sure[key] for key in sure if name in (images[key].labels or ())}
        for key in first_by(having, 1, highest=True):
            more.append(key)
            covered |= set(images[key].labels or ())
    return more
