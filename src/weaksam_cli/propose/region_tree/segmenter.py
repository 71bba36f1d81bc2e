"""The embedded promptable segmenter: the same interface as SAM, no weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import FloatArray, IntArray, as_boxes, clip, iou
from weaksam_cli.core.masks import encode
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.propose.prompting import check_image
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.leaves import Canvas, describe, oversegment, pixel_features
from weaksam_cli.propose.region_tree.prompts import OBJECT, nodes_of_boxes, nodes_of_points
from weaksam_cli.propose.region_tree.ranking import Candidates, among_peers, rank, select
from weaksam_cli.propose.region_tree.trees import Forest, grow

_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class _Encoded:
    """All that is kept of an image; `area` in pixels of the image, the rest of the forest in working pixels."""

    settings: TreeSettings
    canvas: Canvas
    forest: Forest
    candidates: Candidates
    stability: FloatArray
    area: IntArray

    @cached_property
    def prompt_quality(self) -> FloatArray:
        """By which prompts choose nodes, (m,), in [0, 1]; nodes too small for a proposal have 0."""
        quality, weight = self.candidates.node_quality, self.settings.peer_weight
        mixed = np.float32(weight) * among_peers(quality, self.forest.size) + np.float32(1 - weight) * quality
        return np.where(quality > 0, mixed, np.float32(0))

    def masks(self, nodes: IntArray) -> list[bytes]:
        """Pixels of the nodes (n,) at the image's size, as compressed RLE."""
        return encode(self.forest.masks(nodes)[:, self.canvas.rows()][:, :, self.canvas.columns()])


class RegionTreeSegmenter:
    """Answers prompts with nodes of binary partition trees.

    The image is over-segmented in several ways and each set of regions is merged by several criteria into a tree;
    nodes are ranked by how long they persist while merging goes on and by how many trees agree on them.
    """

    def __init__(self, settings: TreeSettings) -> None:
        self.settings = settings
        self._encoded: _Encoded | None = None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Segment the image (H, W, 3), uint8 RGB, that the next prompts are about.

        Raises:
            ValueError: for another shape or dtype.
        """
        check_image(image)
        canvas = Canvas.fit(image.shape[0], image.shape[1], self.settings.max_pixels)
        features = pixel_features(canvas.shrink(image))
        labels = [
            oversegment(features, how, self.settings.smoothing) for how in self.settings.oversegmentations
        ]
        forest = grow([describe(regions, features) for regions in labels], self.settings.criteria)
        self._encoded = _Encoded(
            self.settings,
            canvas,
            forest,
            rank(forest, self.settings),
            forest.stability(self.settings.stability_offset),
            forest.node_sums(canvas.pixel_counts()),
        )

    def prompt_points(
        self,
        xy: NDArray[np.float32],
        labels: NDArray[np.int8],
        *,
        masks: bool = False,
        first_mask: bool = True,
        quality_above: float = -np.inf,
    ) -> PromptedMasks:
        """Masks of n prompts of up to p points each: the regions that contain all foreground points.

        Args:
            xy: float32 (n, p, 2), column and row in pixels of the image; outside of it the nearest pixel counts.
            labels: int8 (n, p): 1 foreground, one at least, 0 background, -1 padding, which is ignored. Regions with
                background points are chosen only where all foreground points cannot be had without.
            masks: also return the masks as compressed RLE.
            first_mask, quality_above: what is not wanted; nothing is saved here by leaving it out, so it is answered.

        Raises:
            ValueError: no image set.
        """
        encoded = self._image()
        canvas, quality = encoded.canvas, encoded.prompt_quality
        column = canvas.columns()[np.clip(xy[..., 0].astype(np.int64), 0, canvas.width - 1)]
        row = canvas.rows()[np.clip(xy[..., 1].astype(np.int64), 0, canvas.height - 1)]
        chosen = np.empty((len(xy), 3), np.int64)
        for start in range(0, len(xy), _PROMPTS_AT_ONCE):
            some = slice(start, start + _PROMPTS_AT_ONCE)
            place = (column[some], row[some], labels[some])
            chosen[some] = nodes_of_points(encoded.forest, quality, *place, self.settings.nesting_ratio)
        return self._answer(encoded, chosen, quality[chosen], masks=masks)

    def prompt_boxes(
        self, boxes: FloatArray, *, masks: bool = False, multimask: bool = True
    ) -> PromptedMasks:
        """Masks of n box prompts, float32 (n, 4), xyxy pixel edges; the object's box fits the prompt best.

        The predicted IoU is that of the mask's box with the prompt. Without `multimask` the object alone is answered.

        Raises:
            ValueError: for another shape, or no image set.
        """
        encoded = self._image()
        canvas = encoded.canvas
        working = canvas.boxes_to_working(clip(as_boxes(boxes), canvas.height, canvas.width))
        chosen = nodes_of_boxes(encoded.forest, encoded.prompt_quality, working, self.settings.nesting_ratio)
        if not multimask:
            chosen = chosen[:, OBJECT : OBJECT + 1]
        fit = np.zeros(chosen.shape, np.float32)
        for index, box in enumerate(working):
            fit[index] = iou(encoded.forest.boxes[chosen[index]], box[None])[:, 0]
        return self._answer(encoded, chosen, fit, masks=masks)

    def grid_proposals(self, most: int, *, masks: bool = False) -> Proposals:
        """The best regions of the whole image: what a prompt at every pixel would find, at a fraction of the cost.

        Args:
            most: at most so many, the best first; boxes alike are suppressed first, so all are different.
            masks: also return the masks as compressed RLE.

        Raises:
            ValueError: no image set.
        """
        encoded = self._image()
        candidates = encoded.candidates
        kept = select(candidates.boxes, candidates.quality, most, self.settings)
        node, boxes = candidates.node[kept], encoded.canvas.boxes_to_image(candidates.boxes[kept])
        return replace(
            Proposals.from_boxes(boxes, "grid", candidates.quality[kept]),
            mask_token=np.full(len(kept), OBJECT, np.int8),
            stability=encoded.stability[node],
            counts=encoded.masks(node) if masks else None,
        )

    def _image(self) -> _Encoded:
        if self._encoded is None:
            raise ValueError("no image set: call set_image first")
        return self._encoded

    def _answer(
        self, encoded: _Encoded, nodes: IntArray, predicted_iou: NDArray[np.float32], *, masks: bool
    ) -> PromptedMasks:
        boxes = encoded.canvas.boxes_to_image(encoded.forest.boxes[nodes.ravel()]).reshape(*nodes.shape, 4)
        counts = [encoded.masks(three) for three in nodes] if masks else None
        return PromptedMasks(boxes, encoded.area[nodes], predicted_iou, encoded.stability[nodes], counts)
