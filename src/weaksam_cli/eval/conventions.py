"""How an evaluator reads boxes and decides a match, as data, so that every published protocol has a name.

Boxes enter in the program's convention: pixel edges, 0-based. An evaluator that counts pixels from 1 with both ends
inside (VOC's XML) sees them shifted by (1, 1, 0, 0); one that counts from 0 with both ends inside (XML minus 1) by
(0, 0, -1, -1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Offset = tuple[float, float, float, float]
Float64Array = NDArray[np.float64]

EDGES: Offset = (0, 0, 0, 0)
FROM_ZERO_INCLUSIVE: Offset = (0, 0, -1, -1)
FROM_ONE_INCLUSIVE: Offset = (1, 1, 0, 0)


@dataclass(frozen=True)
class Convention:
    """How boxes are read and compared.

    Attributes:
        detection_offset: added to x1, y1, x2, y2 of a detection or proposal.
        ground_truth_offset: added to x1, y1, x2, y2 of an annotated box.
        plus_one: whether sides are x2 - x1 + 1.
        strict: whether the IoU must exceed the threshold; otherwise it may equal it.
        box_decimals: decimals to which the detections are written before they are read back; None: not rounded.
        score_decimals: the same for scores.
    """

    detection_offset: Offset = EDGES
    ground_truth_offset: Offset = EDGES
    plus_one: bool = False
    strict: bool = False
    box_decimals: int | None = None
    score_decimals: int | None = None

    def detection_boxes(self, boxes: NDArray[np.floating]) -> Float64Array:
        """Detections (n, 4) as the evaluator reads them."""
        moved = boxes.astype(np.float64) + np.asarray(self.detection_offset)
        return moved if self.box_decimals is None else np.round(moved, self.box_decimals)

    def ground_truth_boxes(self, boxes: NDArray[np.floating]) -> Float64Array:
        """Annotated boxes (n, 4) as the evaluator reads them."""
        return boxes.astype(np.float64) + np.asarray(self.ground_truth_offset)

    def detection_scores(self, scores: NDArray[np.floating]) -> Float64Array:
        """Scores (n,) as the evaluator reads them."""
        exact = scores.astype(np.float64)
        return exact if self.score_decimals is None else np.round(exact, self.score_decimals)

    def reaches(self, overlap: Float64Array, threshold: float) -> NDArray[np.bool_]:
        """Whether IoUs meet the threshold."""
        return overlap > threshold if self.strict else overlap >= threshold


PIXEL_EDGES = Convention()
"""Our own: IoU of float boxes without +1, a match at the threshold or above."""

MIST_AP = Convention(plus_one=True)
"""MIST counts inclusive pixels, adds 1 to x2 and y2 (which gives edges) and once more in the IoU."""

MIST_CORLOC = Convention(
    detection_offset=FROM_ZERO_INCLUSIVE,
    ground_truth_offset=FROM_ONE_INCLUSIVE,
    plus_one=True,
    strict=True,
    box_decimals=1,
    score_decimals=3,
)
"""MIST's CorLoc compares boxes counted from 0 with the XML's boxes counted from 1, through text files."""

MMDETECTION_2 = Convention(detection_offset=FROM_ZERO_INCLUSIVE, ground_truth_offset=FROM_ZERO_INCLUSIVE)
"""WSOD2's mmdetection 2: XML minus 1 on both sides, IoU without +1."""

MMDETECTION_3_LEGACY = Convention(
    detection_offset=FROM_ZERO_INCLUSIVE, ground_truth_offset=FROM_ZERO_INCLUSIVE, plus_one=True
)
"""DINO's `VOCMetric` of mmdetection 3 with legacy coordinates: XML minus 1 on both sides, IoU with +1."""

DETECTRON2_TEXT = Convention(
    detection_offset=FROM_ONE_INCLUSIVE,
    ground_truth_offset=FROM_ONE_INCLUSIVE,
    plus_one=True,
    strict=True,
    box_decimals=1,
    score_decimals=3,
)
"""detectron2's VOC evaluator and its fork: text lines with x1 and y1 counted from 1, IoU with +1, above 0.5."""

PUBLISHED_RECALL = Convention(
    detection_offset=FROM_ZERO_INCLUSIVE, ground_truth_offset=FROM_ONE_INCLUSIVE, plus_one=True
)
"""The published proposal recall: inclusive boxes counted from 0 against the XML's counted from 1, areas with +1."""
