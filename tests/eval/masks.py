"""Objects and detections with masks, drawn as rectangles or at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.masks import encode, tight_boxes
from weaksam_cli.core.types import Detections, GroundTruth

SIZE = (120, 160)
"""Height and width of every image."""
CLASSES = ["cat", "dog"]
Rectangle = Sequence[int]
"""Left, top, right, bottom."""


def rectangles(boxes: Sequence[Rectangle]) -> tuple[bytes, ...]:
    dense = np.zeros((len(boxes), *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(dense, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return tuple(encode(dense)) if len(boxes) else ()


def blobs(rng: np.random.Generator, n: int) -> NDArray[np.bool_]:
    """Unions of two rectangles, bool (n, H, W)."""
    dense = np.zeros((n, *SIZE), bool)
    for mask in dense:
        for _ in range(2):
            top, left = rng.integers(0, 90), rng.integers(0, 120)
            mask[top : top + rng.integers(4, 80), left : left + rng.integers(4, 90)] = True
    return dense


def objects(
    masks: Sequence[bytes | None], classes: Sequence[int], flags: Sequence[bool] | None = None
) -> GroundTruth:
    """Their boxes are tight; of an object without a mask it is the whole image."""
    known = [mask for mask in masks if mask is not None]
    boxes = np.tile(np.asarray([0, 0, SIZE[1], SIZE[0]], np.float32), (len(masks), 1))
    boxes[[mask is not None for mask in masks]] = tight_boxes(known, *SIZE)
    difficult = np.zeros(len(masks), bool) if flags is None else np.asarray(flags, bool)
    return GroundTruth(boxes, np.asarray(classes, np.int32), difficult, masks=tuple(masks))


def found(masks: Sequence[bytes], classes: Sequence[int], scores: Sequence[float]) -> Detections:
    return Detections(
        tight_boxes(masks, *SIZE),
        np.asarray(classes, np.int32),
        np.asarray(scores, np.float32),
        tuple(masks),
    )
