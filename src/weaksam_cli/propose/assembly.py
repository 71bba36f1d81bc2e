"""From points to the proposals of one image: grid, coarse, fine and cross prompts, in that order (spec 03 §2-5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import CLUE_SOURCES, Proposals, Source, keep_best
from weaksam_cli.core.boxes import score_free_nms
from weaksam_cli.core.types import Points
from weaksam_cli.propose.grid import GridFilter, filter_grid, grid_points
from weaksam_cli.propose.segmenter import FOREGROUND, PADDING, Segmenter


@dataclass(frozen=True)
class AssemblySettings:
    """How proposals are put together; the defaults are those of the published system.

    Attributes:
        points_per_side: side of the grid of spatial prompts; 0 for none.
        grid_filter: which masks of the grid become proposals.
        first_mask: keep the first of the three masks of clue prompts, too; the published code keeps the other two.
        class_groups: sources whose points of one class also make one prompt together.
        score_free_nms: for each source that is thinned in the order of generation, the IoU above which a box gives way.
        deduplicate: of equal boxes keep the first.
        max_proposals: keep at most this many, see `keep_best`.
    """

    points_per_side: int = 32
    grid_filter: GridFilter = field(default_factory=GridFilter)
    first_mask: bool = False
    class_groups: tuple[Source, ...] = ("coarse", "fine")
    score_free_nms: Mapping[Source, float] = field(default_factory=lambda: {"cross": 0.9})
    deduplicate: bool = False
    max_proposals: int | None = None


def assemble(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    points: Mapping[Source, Points],
    settings: AssemblySettings,
    *,
    masks: bool = False,
) -> Proposals:
    """The proposals of one image, which is encoded once.

    Args:
        segmenter: answers the prompts.
        image: uint8 RGB (H, W, 3).
        points: the clue points of the sources coarse, fine and cross; a missing source gives nothing.
        settings: how proposals are put together.
        masks: also keep the masks as compressed RLE.

    Raises:
        ValueError: for points of an unknown source or of the source grid.
    """
    unknown = set(points) - set(CLUE_SOURCES)
    if unknown:
        raise ValueError(f"points: expected the sources {CLUE_SOURCES}, got {sorted(unknown)}")
    segmenter.set_image(image)
    height, width = image.shape[:2]
    parts = [grid_proposals(segmenter, height, width, settings, masks=masks)]
    parts += [
        clue_proposals(segmenter, points[source], source, settings, masks=masks)
        for source in CLUE_SOURCES
        if source in points
    ]
    return finish(Proposals.concatenate(parts), settings)


def grid_proposals(
    segmenter: Segmenter, height: int, width: int, settings: AssemblySettings, *, masks: bool = False
) -> Proposals:
    """Proposals of the grid of spatial prompts, by decreasing predicted IoU; all three masks are candidates."""
    xy = grid_points(settings.points_per_side, height, width)
    if not len(xy):
        return Proposals.empty(masks=masks)
    labels = np.full((len(xy), 1), FOREGROUND, np.int8)
    quality = settings.grid_filter.predicted_iou
    prompted = segmenter.prompt_points(xy[:, None], labels, masks=masks, quality_above=quality)
    return filter_grid(Proposals.from_prompted(prompted, "grid"), settings.grid_filter)


def clue_proposals(
    segmenter: Segmenter, points: Points, source: Source, settings: AssemblySettings, *, masks: bool = False
) -> Proposals:
    """Proposals of classification clues: every point alone, then the points of each class together (spec 03 §3)."""
    if not len(points):
        return Proposals.empty(masks=masks)
    members = [np.asarray([index]) for index in range(len(points))]
    if source in settings.class_groups:
        members += group_by_class(points.class_index)
    xy, labels = pad_prompts(points.xy.astype(np.float32), members)
    prompted = segmenter.prompt_points(xy, labels, masks=masks, first_mask=settings.first_mask)
    proposals = Proposals.from_prompted(prompted, source, first_mask=settings.first_mask)
    threshold = settings.score_free_nms.get(source)
    if threshold is None:
        return proposals
    # Areas of pixel edges are those that the published code gets from inclusive indexes by adding 1.
    return proposals.take(score_free_nms(proposals.boxes, threshold, plus_one=False))


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


def finish(proposals: Proposals, settings: AssemblySettings) -> Proposals:
    """The optional last steps, which the published system does not take: no equal boxes, at most so many."""
    if settings.deduplicate:
        _, first = np.unique(proposals.boxes, axis=0, return_index=True)
        proposals = proposals.take(np.sort(first))
    return keep_best(proposals, settings.max_proposals)
