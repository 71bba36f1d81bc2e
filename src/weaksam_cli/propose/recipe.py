"""What can be said about proposals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam_cli.engine.recipes import RecipeModel

ClueSource = Literal["coarse", "fine", "cross"]
SearchMode = Literal["single", "fast", "quality"]


class ClueSettings(RecipeModel):
    """Prompts from classification clues.

    Attributes:
        sources: which kinds of peak points prompt.
        first_mask: keep the first of the three masks, too; the published code keeps the other two.
        class_groups: kinds whose points of one class also make one prompt together.
    """

    sources: tuple[ClueSource, ...] = ("coarse", "fine", "cross")
    first_mask: bool = False
    class_groups: tuple[ClueSource, ...] = ("coarse", "fine")


class SamRecipe(RecipeModel):
    """Segment Anything over a grid of points and the clue points.

    Attributes:
        model: which network; the checkpoint must fit it.
        weights: file name of the checkpoint, or its path.
        points_per_side: side of the grid; 0 for none.
        points_per_batch: prompts decoded at once on a GPU; on a CPU it is one.
        predicted_iou, stability, nms: filters of the grid's masks.
        cross_nms: score-free NMS over the boxes of cross-attention points.
        clues: prompts from classification clues.
        deduplicate: of equal boxes keep the first; the published code keeps all.
        max_proposals: keep at most this many, those of clues first, then those of highest predicted IoU; null for all, as
            published.
        masks: store masks as RLE.
        precision: number format of encoder and decoder. float32 gives the boxes of the published package; bfloat16 and
            float16 are faster on a GPU and move some boxes; auto takes the fastest that the device has.
        compile: run the encoder through torch.compile, on CUDA only; pays from some hundred images on.
    """

    method: Literal["sam"] = "sam"
    model: Literal["vit_h", "vit_l", "vit_b"]
    weights: str
    points_per_side: int = Field(default=32, ge=0)
    points_per_batch: int = Field(default=64, ge=1)
    predicted_iou: float = Field(default=0.3, ge=0, le=1)
    stability: float = Field(default=0.3, ge=0, le=1)
    nms: float = Field(default=0.3, ge=0, le=1)
    cross_nms: float = Field(default=0.9, ge=0, le=1)
    clues: ClueSettings = ClueSettings()
    deduplicate: bool = False
    max_proposals: int | None = Field(default=None, ge=1)
    masks: bool = False
    precision: Literal["float32", "auto", "bfloat16", "float16"] = "float32"
    compile: bool = False


class RegionTreeRecipe(RecipeModel):
    """The embedded segmenter: nodes of binary partition trees.

    Attributes:
        grid_boxes: most proposals of the spatial grid, the best first.
        clue_nms: of clue boxes whose IoU with an earlier box is above this, the later goes.
        clues: prompts from classification clues.
        masks: store masks as RLE.
    """

    method: Literal["region-tree"] = "region-tree"
    grid_boxes: int = Field(default=300, ge=1)
    clue_nms: float = Field(default=0.9, gt=0, le=1)
    clues: ClueSettings = ClueSettings()
    masks: bool = False


class SelectiveSearchRecipe(RecipeModel):
    """Selective Search, which needs no prompts.

    Attributes:
        mode: how many segmentations and similarities are searched: single, fast or quality.
        max_side: images whose longer side is larger are searched at this size; null for none.
        min_side: boxes with a side below this many pixels are left out.
        max_boxes: at most this many, the first in the order of the search; null for all.
    """

    method: Literal["selective-search"] = "selective-search"
    mode: SearchMode = "fast"
    max_side: int | None = Field(default=1024, ge=1)
    min_side: int = Field(default=0, ge=0)
    max_boxes: int | None = Field(default=None, ge=1)


ProposeRecipe = SamRecipe | RegionTreeRecipe | SelectiveSearchRecipe
