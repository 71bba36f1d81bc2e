"""From scores of proposals to detections: class-wise NMS and the best of the image (spec 04 §A.6, §B.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import Detections


def select_detections(
    boxes: FloatArray,
    scores: NDArray[np.float32],
    *,
    score_threshold: float = 0.0,
    nms_threshold: float = 0.3,
    most: int = 100,
) -> Detections:
    """Detections of one image, class by class and by decreasing score within a class.

    A box without area, which decoding and cutting to the image may leave, never becomes a detection.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges, or (R, C, 4) with a box for each class.
        scores: float32 (R, C).
        score_threshold: detections must score strictly above.
        nms_threshold: IoU above which the lower of two boxes of a class goes.
        most: at most so many, the best over all classes; further ones of equal score stay, too.

    Raises:
        ValueError: for boxes of another shape, or numbers that are not finite.
    """
    import torch
    from torchvision.ops import nms

    _check(boxes, scores)
    found_boxes, found_classes, found_scores = [], [], []
    for index in range(scores.shape[1]):
        places = boxes if boxes.ndim == 2 else boxes[:, index]
        has_area = (places[:, 2:] > places[:, :2]).all(axis=1)
        rows = np.flatnonzero(has_area & (scores[:, index] > score_threshold))
        candidates = torch.from_numpy(places[rows]), torch.from_numpy(scores[rows, index])
        kept = rows[nms(*candidates, nms_threshold).numpy()]
        found_boxes.append(places[kept])
        found_scores.append(scores[kept, index])
        found_classes.append(np.full(len(kept), index, np.int32))
    if not found_boxes:
        return Detections.empty()
    joined = Detections(
        as_boxes(np.concatenate(found_boxes)), np.concatenate(found_classes), np.concatenate(found_scores)
    )
    if len(joined) <= most:
        return joined
    cut = np.partition(joined.scores, -most)[-most]
    return joined.take(joined.scores >= cut)


def _check(boxes: FloatArray, scores: NDArray[np.float32]) -> None:
    proposals, classes = scores.shape
    if boxes.shape not in ((proposals, 4), (proposals, classes, 4)):
        raise ValueError(
            f"boxes: expected shape ({proposals}, 4) or ({proposals}, {classes}, 4), got {boxes.shape}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("boxes and scores: expected finite numbers, got NaN or infinity")
