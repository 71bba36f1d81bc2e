"""From a recipe to a function that gives the proposals of one image; each image is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import CLUE_SOURCES, SOURCES, Proposals, Source
from weaksam_cli.core.boxes import score_free_nms
from weaksam_cli.core.types import Points
from weaksam_cli.errors import UserError
from weaksam_cli.propose.assembly import AssemblySettings, assemble, clue_proposals
from weaksam_cli.propose.grid import GridFilter
from weaksam_cli.propose.recipe import (
    ClueSettings,
    ProposeRecipe,
    RegionTreeRecipe,
    SamRecipe,
    SelectiveSearchRecipe,
)

Propose = Callable[[NDArray[np.uint8], Mapping[Source, Points]], Proposals]


def build(recipe: ProposeRecipe, weights: Path | None, device: str) -> Propose:
    """Load the segmenter of a recipe once."""
    if isinstance(recipe, RegionTreeRecipe):
        return _region_tree(recipe)
    if isinstance(recipe, SelectiveSearchRecipe):
        return _selective_search(recipe)
    if weights is None:
        raise ValueError("a SAM recipe needs its checkpoint")
    return _sam(recipe, weights, device)


def _chosen(points: Mapping[Source, Points], clues: ClueSettings) -> dict[Source, Points]:
    return {source: found for source, found in points.items() if source in clues.sources}


def _sam(recipe: SamRecipe, weights: Path, device: str) -> Propose:
    from weaksam_cli.propose.precision import choose_dtype, set_precision
    from weaksam_cli.propose.sam import SamSegmenter
    from weaksam_cli.propose.sam_checkpoint import load_sam

    if recipe.compile and not device.startswith("cuda"):
        raise UserError(
            f"torch.compile gains nothing on {device}",
            where="propose recipe, compile",
            remedy="Leave it out, or use --device cuda",
        )
    dtype = choose_dtype(recipe.precision, device)
    sam = load_sam(recipe.model, weights, device=device)
    set_precision(sam, dtype)
    segmenter = SamSegmenter(sam, points_per_batch=recipe.points_per_batch, compiled=recipe.compile)
    settings = AssemblySettings(
        points_per_side=recipe.points_per_side,
        grid_filter=GridFilter(recipe.predicted_iou, recipe.stability, recipe.nms),
        first_mask=recipe.clues.first_mask,
        class_groups=recipe.clues.class_groups,
        score_free_nms={"cross": recipe.cross_nms},
        deduplicate=recipe.deduplicate,
        max_proposals=recipe.max_proposals,
    )

    def propose(image: NDArray[np.uint8], points: Mapping[Source, Points]) -> Proposals:
        return assemble(segmenter, image, _chosen(points, recipe.clues), settings, masks=recipe.masks)

    return propose


def _region_tree(recipe: RegionTreeRecipe) -> Propose:
    from weaksam_cli.propose.region_tree import RegionTreeSegmenter

    segmenter = RegionTreeSegmenter()
    settings = AssemblySettings(
        first_mask=recipe.clues.first_mask, class_groups=recipe.clues.class_groups, score_free_nms={}
    )

    def propose(image: NDArray[np.uint8], points: Mapping[Source, Points]) -> Proposals:
        segmenter.set_image(image)
        regions = segmenter.grid_proposals(recipe.grid_boxes, masks=recipe.masks)
        n = len(regions)
        grid = Proposals(
            boxes=regions.boxes,
            source=np.full(n, SOURCES.index("grid"), np.int8),
            prompt=np.arange(n, dtype=np.int32),
            mask_token=np.ones(n, np.int8),
            predicted_iou=regions.predicted_iou,
            stability=regions.stability,
            counts=regions.counts,
        )
        chosen = _chosen(points, recipe.clues)
        clues = [
            clue_proposals(segmenter, chosen[source], source, settings, masks=recipe.masks)
            for source in CLUE_SOURCES
            if source in chosen
        ]
        joined = Proposals.concatenate([grid, *clues])
        kept = np.arange(len(joined)) < len(grid)
        kept[score_free_nms(joined.boxes, recipe.clue_nms, plus_one=False)] = True
        return joined.take(kept)

    return propose


def _selective_search(recipe: SelectiveSearchRecipe) -> Propose:
    from weaksam_cli.propose.selective_search import selective_search

    def propose(image: NDArray[np.uint8], points: Mapping[Source, Points]) -> Proposals:
        boxes = selective_search(
            image,
            mode=recipe.mode,
            max_side=recipe.max_side,
            min_side=recipe.min_side,
            max_boxes=recipe.max_boxes,
        )
        return Proposals.from_boxes(boxes, "search")

    return propose
