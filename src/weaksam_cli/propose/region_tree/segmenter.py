"""The embedded promptable segmenter: the same interface as SAM, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import SOURCES, Proposals
from weaksam_cli.core.boxes import FloatArray, IntArray, as_boxes, clip, iou
from weaksam_cli.core.masks import encode
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.forest import Forest, plant
from weaksam_cli.propose.region_tree.leaves import Canvas, describe, oversegment, pixel_features
from weaksam_cli.propose.region_tree.merge import merge
from weaksam_cli.propose.region_tree.prompts import OBJECT, nodes_of_boxes, nodes_of_points
from weaksam_cli.propose.region_tree.ranking import Candidates, among_peers, rank, select
from weaksam_cli.propose.segmenter import FOREGROUND, PADDING, check_image, check_points

_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class _Encoded:
    """All that is kept of an image; `area` in pixels of the image, the rest of the forest in working pixels."""

    canvas: Canvas
    forest: Forest
    candidates: Candidates
    quality: FloatArray
    stability: FloatArray
    area: IntArray
    peer_weight: float

    @cached_property
    def prompt_quality(self) -> FloatArray:
        """By which prompts choose nodes, (m,), in [0, 1]; nodes too small for a proposal have 0."""
        peers = among_peers(self.quality, self.forest.size)
        mixed = np.float32(self.peer_weight) * peers + np.float32(1 - self.peer_weight) * self.quality
        return np.where(self.quality > 0, mixed, np.float32(0))


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
        merging = merge([describe(regions, features) for regions in labels], self.settings.criteria)
        tree_labels = np.repeat(np.arange(len(labels)), len(self.settings.criteria))
        forest = plant(np.stack(labels), tree_labels, merging)
        candidates, quality = rank(forest, self.settings)
        stability = forest.stability(self.settings.stability_offset)
        area = forest.node_sums(canvas.pixel_counts())
        self._encoded = _Encoded(
            canvas, forest, candidates, quality, stability, area, self.settings.peer_weight
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
            xy: float32 (n, p, 2), column and row in pixels of the image; a peak at column 3 is 3.0.
            labels: int8 (n, p): 1 foreground, 0 background, -1 padding, which is ignored. Regions with background
                points are chosen only where all foreground points cannot be had without.
            masks: also return the masks as compressed RLE.
            first_mask, quality_above: what is not wanted; nothing is saved here by leaving it out, so it is answered.

        Raises:
            ValueError: for other shapes, a prompt without a foreground point, a point outside the image, or no
                image set.
        """
        encoded = self._image()
        check_points(xy, labels)
        canvas = encoded.canvas
        _check_inside(xy, labels, canvas)
        bare = np.flatnonzero((labels != FOREGROUND).all(axis=1))
        if bare.size:
            raise ValueError(f"labels: prompt {int(bare[0])} has no foreground point")
        column = np.clip(xy[..., 0].astype(np.int64), 0, canvas.width - 1)
        row = np.clip(xy[..., 1].astype(np.int64), 0, canvas.height - 1)
        column, row = canvas.columns()[column], canvas.rows()[row]
        chosen = np.empty((len(xy), 3), np.int64)
        for start in range(0, len(xy), _PROMPTS_AT_ONCE):
            some = slice(start, start + _PROMPTS_AT_ONCE)
            chosen[some] = nodes_of_points(
                encoded.forest,
                encoded.prompt_quality,
                column[some],
                row[some],
                labels=labels[some],
                ratio=self.settings.nesting_ratio,
            )
        return self._answer(encoded, chosen, encoded.prompt_quality[chosen], masks=masks)

    def prompt_boxes(self, boxes: FloatArray, *, masks: bool = False) -> PromptedMasks:
        """Masks of n box prompts, float32 (n, 4), xyxy pixel edges; the object's box fits the prompt best.

        The predicted IoU is that of the mask's box with the prompt.

        Raises:
            ValueError: for another shape, a box that has no area inside the image, or no image set.
        """
        encoded = self._image()
        canvas = encoded.canvas
        inside = clip(as_boxes(boxes), canvas.height, canvas.width)
        empty = np.flatnonzero((inside[:, 2:] <= inside[:, :2]).any(axis=1))
        if empty.size:
            got = [float(edge) for edge in boxes[empty[0]]]
            raise ValueError(
                f"boxes: expected an area inside the image of {canvas.width} x {canvas.height} pixels, got {got}"
            )
        working = canvas.boxes_to_working(inside)
        chosen = nodes_of_boxes(encoded.forest, encoded.prompt_quality, working, self.settings.nesting_ratio)
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
        node = candidates.node[kept]
        return Proposals(
            boxes=encoded.canvas.boxes_to_image(candidates.boxes[kept]),
            source=np.full(len(kept), SOURCES.index("grid"), np.int8),
            prompt=np.arange(len(kept), dtype=np.int32),
            mask_token=np.full(len(kept), OBJECT, np.int8),
            predicted_iou=candidates.quality[kept],
            stability=encoded.stability[node],
            counts=encode(self._dense(encoded, node)) if masks else None,
        )

    def _image(self) -> _Encoded:
        if self._encoded is None:
            raise ValueError("no image set: call set_image first")
        return self._encoded

    def _answer(
        self, encoded: _Encoded, nodes: IntArray, predicted_iou: NDArray[np.float32], *, masks: bool
    ) -> PromptedMasks:
        n = len(nodes)
        boxes = encoded.canvas.boxes_to_image(encoded.forest.boxes[nodes.ravel()]).reshape(n, 3, 4)
        counts = [encode(self._dense(encoded, three)) for three in nodes] if masks else None
        return PromptedMasks(
            boxes, encoded.area[nodes], predicted_iou.astype(np.float32), encoded.stability[nodes], counts
        )

    @staticmethod
    def _dense(encoded: _Encoded, nodes: IntArray) -> NDArray[np.bool_]:
        masks = encoded.forest.masks(nodes)
        canvas = encoded.canvas
        return masks[:, canvas.rows()][:, :, canvas.columns()]


def _check_inside(xy: NDArray[np.float32], labels: NDArray[np.int8], canvas: Canvas) -> None:
    limits = np.asarray([canvas.width, canvas.height], np.float32)
    outside = ((xy < 0) | (xy > limits)).any(axis=2) & (labels != PADDING)
    if outside.any():
        prompt, point = (int(index) for index in np.argwhere(outside)[0])
        got = tuple(float(value) for value in xy[prompt, point])
        raise ValueError(
            f"xy: expected points inside the image of {canvas.width} x {canvas.height} pixels, got {got} "
            f"(prompt {prompt}, point {point})"
        )
