"""From scores of proposals to detections: class-wise NMS and the best of the picture (spec 04 §B.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.structures.boxes import FloatArray, as_boxes
from weaksam_cli.structures.types import Detections


def select_detections(
    boxes: FloatArray,
    scores: NDArray[np.float32],
    *,
    score_threshold: float = 0.0,
    nms_threshold: float = 0.3,
    most: int = 100,
) -> Detections:
    """Detections of one picture, class by class and by decreasing score within a class.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges.
        scores: float32 (R, C).
        score_threshold: detections must score strictly above.
        nms_threshold: IoU above which the lower of two boxes of a class goes.
        most: at most so many, the best over all classes; further ones of equal score stay, too.
    """
    import torch
    from torchvision.ops import nms

    corners, columns = torch.from_numpy(boxes), torch.from_numpy(scores)
    found_boxes, found_classes, found_scores = [], [], []
    for index in range(scores.shape[1]):
        rows = np.flatnonzero(scores[:, index] > score_threshold)
        kept = rows[nms(corners[rows], columns[rows, index], nms_threshold).numpy()]
        found_boxes.append(boxes[kept])
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
