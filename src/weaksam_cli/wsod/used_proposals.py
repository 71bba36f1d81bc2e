"""Which proposals of an image a detector learns from and looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import Proposals, keep_best, read_proposals
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.data.labels import Labels
from weaksam_cli.wsod.settings import ProposalSettings


def image_loader(
    labels: Labels, proposals: Artifact, settings: ProposalSettings
) -> Callable[[str], tuple[NDArray[np.uint8], Proposals]]:
    """From an image's key to the image, uint8 RGB (H, W, 3), and the R proposals that are used.

    What is returned raises ImageError where the image cannot be read, or is not the one that `weaksam data` saw.

    Args:
        labels: of the split.
        proposals: artifact of the split, open.
        settings: which proposals are used.
    """
    images = labels.by_key()

    def load(key: str) -> tuple[NDArray[np.uint8], Proposals]:
        pixels = labels.read_image(images[key])
        found = read_proposals(proposals, key)
        return pixels, usable_proposals(found, pixels.shape[0], pixels.shape[1], settings)

    return load


def usable_proposals(proposals: Proposals, height: int, width: int, settings: ProposalSettings) -> Proposals:
    """Clip to the image, drop small proposals, keep the first of duplicates, then the best of what is left.

    The published trainers fail on an image of which nothing is left; here the box of the whole image stands in.

    Args:
        proposals: of the image, pixel edges.
        height: of the image in pixels.
        width: of the image in pixels.
        settings: what is left out.

    Returns:
        R of them, at least 1, in the order of `proposals`, without masks.
    """
    clipped = box_math.clip(proposals.boxes, height, width)
    sides = clipped[:, 2:] - clipped[:, :2]
    enough = sides > settings.min_side if settings.above else sides >= settings.min_side
    candidates = np.flatnonzero((enough & (sides > 0)).all(axis=1))
    index = candidates[first_of_duplicates(clipped[candidates], cell=settings.cell)]
    if not len(index):
        return Proposals.from_boxes(as_boxes([[0, 0, width, height]]), "import")
    return keep_best(replace(proposals, boxes=clipped, counts=None).take(index), settings.most)


def first_of_duplicates(boxes: FloatArray, *, cell: float) -> NDArray[np.int64]:
    """Indexes, ascending, of the boxes that come first among those whose corners, in cells, round to the same numbers.

    The published code compares sums of corners times powers of 1000, which confuses boxes beyond 1000 pixels; here all
    four numbers are compared. They are rounded as inclusive pixel indexes, as there.
    """
    # Adding 0 turns the -0 that rounding may leave into 0, which the comparison of rows tells apart.
    corners = np.round(box_math.edges_to_inclusive(boxes) / np.float32(cell)) + np.float32(0)
    _, first = np.unique(corners, axis=0, return_index=True)
    return np.sort(first).astype(np.int64)
