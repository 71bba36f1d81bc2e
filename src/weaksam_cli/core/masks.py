"""Masks as COCO run-length encodings; dense masks never travel between stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes


def encode(masks: NDArray[np.bool_]) -> list[bytes]:
    """Compressed RLE strings (COCO's `counts`) of masks (n, H, W)."""
    from pycocotools import mask as coco_mask

    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [cast(bytes, item["counts"]) for item in coco_mask.encode(stacked)]


def decode(counts: Sequence[bytes], height: int, width: int) -> NDArray[np.bool_]:
    """Dense masks (n, H, W) of compressed RLE strings."""
    from pycocotools import mask as coco_mask

    if not counts:
        return np.zeros((0, height, width), dtype=bool)
    stacked = coco_mask.decode([{"size": [height, width], "counts": item} for item in counts])
    return np.ascontiguousarray(np.asarray(stacked, dtype=bool).transpose(2, 0, 1))


def tight_boxes(counts: Sequence[bytes], height: int, width: int) -> FloatArray:
    """Tight boxes (n, 4), xyxy pixel edges; an empty mask gives (0, 0, 0, 0)."""
    from pycocotools import mask as coco_mask

    if not counts:
        return as_boxes([])
    xywh = coco_mask.toBbox([{"size": [height, width], "counts": item} for item in counts])
    boxes = np.asarray(xywh, dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return as_boxes(boxes)


def areas(counts: Sequence[bytes], height: int, width: int) -> NDArray[np.int64]:
    """Pixels (n,) of compressed RLE strings."""
    from pycocotools import mask as coco_mask

    if not counts:
        return np.zeros(0, np.int64)
    return np.asarray(
        coco_mask.area([{"size": [height, width], "counts": item} for item in counts]), np.int64
    )
