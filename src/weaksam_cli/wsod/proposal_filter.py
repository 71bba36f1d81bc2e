"""Which proposals a detector trains and tests on: inside the image, large enough, each once (spec 04 §A.5, §B.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import boxes as box_ops
from weaksam_cli.core.boxes import FloatArray, as_boxes

WHOLE_IMAGE = -1
"""Index of the box of the whole image, which stands in when no proposal is left."""


@dataclass(frozen=True)
class ProposalFilter:
    """The rule for one detector and dataset.

    Attributes:
        min_side: least width and height in pixels.
        above: sides must be strictly above `min_side`.
        cell: proposals whose corners, divided by this many pixels, round to the same numbers are duplicates.
    """

    min_side: float
    above: bool = False
    cell: float = 1.0


MIST_VOC = ProposalFilter(min_side=20)
MIST_COCO = ProposalFilter(min_side=2)
OICR = ProposalFilter(min_side=20, above=True, cell=8)


@dataclass(frozen=True)
class FilteredProposals:
    """Proposals that passed, in their order.

    Attributes:
        boxes: float32 (m, 4), xyxy pixel edges, clipped to the image; m is at least 1.
        index: int64 (m,), which proposal each one is; `WHOLE_PICTURE` for the stand-in.
    """

    boxes: FloatArray
    index: NDArray[np.int64]


def filter_proposals(boxes: FloatArray, height: int, width: int, rule: ProposalFilter) -> FilteredProposals:
    """Clip to the image, drop small proposals, then keep the first of duplicates.

    The published trainers fail on an image of which nothing is left; here the box of the whole image stands in.

    Args:
        boxes: float32 (n, 4), xyxy pixel edges.
        height: of the image in pixels.
        width: of the image in pixels.
        rule: what to drop.
    """
    clipped = box_ops.clip(as_boxes(boxes), height, width)
    sides = clipped[:, 2:] - clipped[:, :2]
    large = ((sides > rule.min_side if rule.above else sides >= rule.min_side) & (sides > 0)).all(axis=1)
    candidates = np.flatnonzero(large)
    index = candidates[first_of_duplicates(clipped[candidates], cell=rule.cell)]
    if not len(index):
        return FilteredProposals(as_boxes([[0, 0, width, height]]), np.asarray([WHOLE_IMAGE], np.int64))
    return FilteredProposals(clipped[index], index)


def first_of_duplicates(boxes: FloatArray, *, cell: float = 1.0) -> NDArray[np.int64]:
    """Indexes, ascending, of the boxes that come first among those with the same rounded corners.

    The published code compares sums of corners times powers of 1000, which confuses boxes beyond 1000 pixels; here all
    four numbers are compared. They are rounded as inclusive pixel indexes, as there.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    # Adding 0 turns the -0 that rounding may leave into 0, which the comparison of rows tells apart.
    corners = np.round(box_ops.edges_to_inclusive(boxes) / np.float32(cell)) + np.float32(0)
    _, first = np.unique(corners, axis=0, return_index=True)
    return np.sort(first).astype(np.int64)
