"""A promptable segmenter, and from it to the proposals of an image: grid, coarse, fine and cross prompts (spec 03 §2-5).

A new segmenter inherits its recipe from `PromptingSettings`, and `partial(assemble, segmenter, recipe)` is what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts.proposals import CLUE_SOURCES, Proposals, Source, keep_best
from weaksam_cli.core import boxes as box_ops
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Points, PromptedMasks
from weaksam_cli.propose.stage import ClueSettings

Precision = Literal["float32", "auto", "bfloat16", "float16"]

FOREGROUND: Final = 1
BACKGROUND: Final = 0
PADDING: Final = -1
"""Labels of point prompts."""


@runtime_checkable
class Segmenter(Protocol):
    """Answers point and box prompts on one image at a time with three nested masks each."""

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode the image (H, W, 3), uint8 RGB, that the next prompts are about.

        Raises:
            ValueError: for another shape or dtype.
        """
        ...

    def prompt_points(
        self,
        xy: NDArray[np.float32],
        labels: NDArray[np.int8],
        *,
        masks: bool = False,
        first_mask: bool = True,
        quality_above: float = -np.inf,
    ) -> PromptedMasks:
        """Masks of n prompts of up to p points each.

        A segmenter may save itself the masks that are not wanted, and answer with empty ones (area 0) in their place.

        Args:
            xy: float32 (n, p, 2), column and row in pixels of the image; a peak at column 3 is 3.0.
            labels: int8 (n, p): 1 foreground, one at least, 0 background, -1 padding. Padding fills prompts of fewer points
                up to p and has no influence on the answer.
            masks: also return the masks as compressed RLE.
            first_mask: is the first of the three masks wanted?
            quality_above: masks whose predicted IoU is not above this are not wanted.

        Raises:
            ValueError: no image set.
        """
        ...

    def prompt_boxes(
        self, boxes: box_ops.FloatArray, *, masks: bool = False, multimask: bool = True
    ) -> PromptedMasks:
        """Masks of n box prompts, float32 (n, 4), xyxy pixel edges; without `multimask` one each, that of the object.

        Raises:
            ValueError: for another shape, or no image set.
        """
        ...


def check_image(image: NDArray[np.generic]) -> None:
    """Refuse what is not uint8 (H, W, 3) with at least one pixel.

    Raises:
        ValueError: naming the shape and dtype that were given.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")


class PromptingSettings(RecipeModel):
    """How a segmenter is prompted and what is kept; the defaults are those of the published system.

    Attributes:
        points_per_side: side of the grid; 0 for none.
        points_per_batch: prompts decoded at once on a GPU; on a CPU it is one.
        predicted_iou: masks of the grid whose predicted IoU is strictly above are kept.
        stability: masks of the grid whose stability is at least this are kept; empty masks never pass.
        nms: class-agnostic NMS removes a box of the grid whose IoU with a better one is strictly above.
        cross_nms: score-free NMS over the boxes of cross-attention points.
        clues: prompts from classification clues.
        deduplicate: of equal boxes keep the first; the published code keeps all.
        max_proposals: keep at most this many, those of clues first, then those of highest predicted IoU; null for all, as
            published.
        masks: store masks as RLE.
        precision: number format of the network. float32 gives the boxes of the published package; bfloat16 and float16
            are faster on a GPU and move some boxes; auto takes the fastest that the device has.
    """

    points_per_side: int = Field(default=32, ge=0, le=256)
    points_per_batch: int = Field(default=64, ge=1, le=4096)
    predicted_iou: float = Field(default=0.3, ge=0, le=1)
    stability: float = Field(default=0.3, ge=0, le=1)
    nms: float = Field(default=0.3, ge=0, le=1)
    cross_nms: float = Field(default=0.9, ge=0, le=1)
    clues: ClueSettings = ClueSettings()
    deduplicate: bool = False
    max_proposals: int | None = Field(default=None, ge=1, le=1_000_000)
    masks: bool = False
    precision: Precision = "float32"


def assemble(
    segmenter: Segmenter,
    settings: PromptingSettings,
    image: NDArray[np.uint8],
    points: Mapping[Source, Points],
) -> Proposals:
    """The proposals of one image, which is encoded once.

    Args:
        segmenter: answers the prompts.
        settings: how proposals are put together.
        image: uint8 RGB (H, W, 3).
        points: the clue points of the sources coarse, fine and cross; a missing source gives nothing.
    """
    segmenter.set_image(image)
    parts = [grid_proposals(segmenter, image.shape[0], image.shape[1], settings)]
    for source in CLUE_SOURCES:
        if source in points:
            found = clue_proposals(segmenter, points[source], source, settings.clues, masks=settings.masks)
            if source == "cross":
                # Areas of pixel edges are those that the published code gets from inclusive indexes by adding 1.
                found = found.take(box_ops.score_free_nms(found.boxes, settings.cross_nms, plus_one=False))
            parts.append(found)
    proposals = Proposals.concatenate(parts)
    if settings.deduplicate:
        _, first = np.unique(proposals.boxes, axis=0, return_index=True)
        proposals = proposals.take(np.sort(first))
    return keep_best(proposals, settings.max_proposals)


def grid_points(points_per_side: int, height: int, width: int) -> NDArray[np.float32]:
    """Points (points_per_side squared, 2), x fastest, at ((i + 0.5) / n) of the width and height in pixels."""
    fractions = (np.arange(points_per_side) + 0.5) / max(points_per_side, 1)
    y, x = np.meshgrid(fractions * height, fractions * width, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def grid_proposals(segmenter: Segmenter, height: int, width: int, settings: PromptingSettings) -> Proposals:
    """Proposals of the grid of spatial prompts, by decreasing predicted IoU; all three masks are candidates."""
    xy = grid_points(settings.points_per_side, height, width)[:, None]
    labels = np.full(xy.shape[:2], FOREGROUND, np.int8)
    prompted = segmenter.prompt_points(xy, labels, masks=settings.masks, quality_above=settings.predicted_iou)
    return filter_grid(Proposals.from_prompted(prompted, "grid"), settings)


def filter_grid(proposals: Proposals, settings: PromptingSettings) -> Proposals:
    """The proposals that pass the filters of SAM's automatic mask generation, by decreasing predicted IoU.

    The published code suppresses boxes of inclusive pixel indexes with areas that do not count the last pixel, so a
    box is one pixel smaller on each axis than here; the conversion keeps its choices.
    """
    good = (proposals.predicted_iou > settings.predicted_iou) & (proposals.stability >= settings.stability)
    candidates = proposals.take(good)
    inclusive = box_ops.edges_to_inclusive(candidates.boxes)
    # torchvision compares a float32 IoU with a float64 threshold: an IoU of exactly 3/10 is above 0.3.
    threshold = np.float64(settings.nms)
    return candidates.take(box_ops.nms(inclusive, candidates.predicted_iou, threshold))


def clue_proposals(
    segmenter: Segmenter, points: Points, source: Source, clues: ClueSettings, *, masks: bool
) -> Proposals:
    """Proposals of classification clues: every point alone, then the points of each class together (spec 03 §3)."""
    members = [np.asarray([index]) for index in range(len(points))]
    if source in clues.class_groups:
        members += group_by_class(points.class_index)
    xy, labels = pad_prompts(points.xy.astype(np.float32), members)
    prompted = segmenter.prompt_points(xy, labels, masks=masks, first_mask=clues.first_mask)
    return Proposals.from_prompted(prompted, source, first_mask=clues.first_mask)


def without_repeats(clues: Proposals, grid: box_ops.FloatArray, threshold: float) -> Proposals:
    """The clues' proposals whose IoU with all boxes of the grid (n, 4), and with earlier ones that stay, is not above.

    All of the grid stays in the list, so all of it suppresses, boxes that the grid's own NMS would have suppressed too.
    """
    new = clues.take(box_ops.iou(clues.boxes, grid).max(axis=1, initial=0) <= threshold)
    return new.take(box_ops.score_free_nms(new.boxes, threshold, plus_one=False))


def group_by_class(class_index: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Point indexes of each class, classes in order of first appearance; points without a class (-1) are in no group."""
    classes, first = np.unique(class_index, return_index=True)
    ordered = classes[np.argsort(first, kind="stable")]
    return [np.flatnonzero(class_index == index) for index in ordered if index >= 0]


def pad_prompts(
    xy: NDArray[np.float32], members: list[NDArray[np.int64]]
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Prompts of unequal length as one array: float32 (n, p, 2) and labels int8 (n, p), padding labelled -1."""
    longest = max((len(indexes) for indexes in members), default=0)
    padded = np.zeros((len(members), longest, 2), np.float32)
    labels = np.full((len(members), longest), PADDING, np.int8)
    for row, indexes in enumerate(members):
        padded[row, : len(indexes)] = xy[indexes]
        labels[row, : len(indexes)] = FOREGROUND
    return padded, labels
