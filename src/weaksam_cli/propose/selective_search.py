"""Selective Search (Uijlings et al., IJCV 2013) as opencv-contrib has it: the class-agnostic baseline of the paper."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes, clip, scale, xywh_to_xyxy
from weaksam_cli.propose.recipe import SearchMode
from weaksam_cli.propose.segmenter import check_image

_SWITCHES: Final = {
    "single": "switchToSingleStrategy",
    "fast": "switchToSelectiveSearchFast",
    "quality": "switchToSelectiveSearchQuality",
}
_FIRST_SEED: Final = 1
"""What the C standard seeds `rand` with at the start of a program."""


def selective_search(
    image: NDArray[np.uint8],
    *,
    mode: SearchMode = "fast",
    max_side: int | None = None,
    min_side: int = 0,
    max_boxes: int | None = None,
) -> FloatArray:
    """Boxes float32 (n, 4), xyxy pixel edges, all different, in OpenCV's order; the whole image is one of them.

    OpenCV ranks a region by its height in the merge tree times a number of the C library's `rand`, so large regions
    tend to come first. `rand` is put back to its start for every image: the order is the one that a new process
    finds, whatever was done before and by however many processes.

    Args:
        image: uint8 RGB (H, W, 3).
        mode: `single` (one segmentation, one similarity), `fast` or `quality` (more of both).
        max_side: search an image whose longer side is larger at this size; the time grows faster than the pixels
            (48 s at 1280 x 1708).
        min_side: leave out boxes with a side below this many pixels of the image.
        max_boxes: at most this many, the first.

    Raises:
        ValueError: for another shape or dtype, or an unknown mode.
    """
    check_image(image)
    if mode not in _SWITCHES:
        raise ValueError(f"mode: expected one of {', '.join(_SWITCHES)}, got {mode!r}")
    height, width = image.shape[:2]
    canvas = _canvas(image, max_side)
    boxes = xywh_to_xyxy(_search(canvas, mode))
    boxes = clip(scale(boxes, width / canvas.shape[1], height / canvas.shape[0]), height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[(sides >= min_side).all(axis=1)][:max_boxes]


def _canvas(image: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """The image as it is searched: contiguous BGR, at most `max_side` long."""
    bgr: Any = np.ascontiguousarray(image[:, :, ::-1])
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return bgr
    factor = max_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)


def _search(bgr: NDArray[np.uint8], mode: SearchMode) -> FloatArray:
    """Rectangles (n, 4) as OpenCV finds them: left, top, width, height."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(bgr)
    getattr(search, _SWITCHES[mode])()
    ctypes.CDLL(None).srand(_FIRST_SEED)
    return as_boxes(search.process())
