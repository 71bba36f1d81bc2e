"""Selective Search (Uijlings et al., IJCV 2013) as opencv-contrib has it: the class-agnostic baseline of the paper."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import FloatArray, as_boxes, clip, scale, xywh_to_xyxy
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.images import shrink
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose.prompting import check_image
from weaksam_cli.propose.stage import Propose, proposal_steps

Mode = Literal["single", "fast", "quality"]
_SWITCHES: Final = {
    "single": "SingleStrategy",
    "fast": "SelectiveSearchFast",
    "quality": "SelectiveSearchQuality",
}
_FIRST_SEED: Final = 1
"""What the C standard seeds `rand` with at the start of a program."""


class Recipe(RecipeModel):
    """Selective Search, which needs no prompts.

    Attributes:
        mode: how many segmentations and similarities are searched: `single` (one of each), `fast` or `quality` (more of
            both).
        max_side: images whose longer side is larger are searched at this size, since the time grows faster than the
            pixels (48 s at 1280 x 1708); null for none.
        min_side: boxes with a side below this many pixels are left out.
        max_boxes: at most this many, the first in the order of the search; null for all.
    """

    method: Literal["selective_search"] = "selective_search"
    mode: Mode = "fast"
    max_side: int | None = Field(default=1024, ge=16, le=8192)
    min_side: int = Field(default=0, ge=0, le=100_000)
    max_boxes: int | None = Field(default=None, ge=1, le=1_000_000)


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split."""
    return proposal_steps(recipe, context, split, build)


def build(recipe: Recipe, _weights: Path | None, _device: str) -> Propose:
    """Nothing is loaded."""
    return lambda image, _points: Proposals.from_boxes(selective_search(image, recipe), "search")


def selective_search(image: NDArray[np.uint8], recipe: Recipe) -> FloatArray:
    """Boxes float32 (n, 4), xyxy pixel edges, all different, in OpenCV's order; the whole image is one of them.

    OpenCV ranks a region by its height in the merge tree times a number of the C library's `rand`, so large regions
    tend to come first. `rand` is put back to its start for every image: the order is the one that a new process
    finds, whatever was done before and by however many processes.

    Raises:
        ValueError: `image` is not uint8 RGB (H, W, 3).
    """
    check_image(image)
    height, width = image.shape[:2]
    canvas = shrink(image, recipe.max_side / max(height, width)) if recipe.max_side else image
    boxes = xywh_to_xyxy(_search(np.ascontiguousarray(canvas[:, :, ::-1]), recipe.mode))
    boxes = clip(scale(boxes, width / canvas.shape[1], height / canvas.shape[0]), height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[(sides >= recipe.min_side).all(axis=1)][: recipe.max_boxes]


def _search(bgr: NDArray[np.uint8], mode: Mode) -> FloatArray:
    """Rectangles (n, 4) as OpenCV finds them: left, top, width, height."""
    import cv2

    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(bgr)
    getattr(search, f"switchTo{_SWITCHES[mode]}")()
    ctypes.CDLL(None).srand(_FIRST_SEED)
    return as_boxes(search.process())
