"""The region tree whose box prompts are answered by a vote of random walkers and nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes, clip, iou
from weaksam_cli.core.masks import areas, encode, tight_boxes
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.models.hed import HedNetwork, edges_and_features
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.leaves import Leaves, PixelFeatures, describe, pixel_features
from weaksam_cli.propose.region_tree.prompts import OBJECT
from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter
from weaksam_cli.propose.region_tree.trees import Forest, grow
from weaksam_cli.propose.region_tree_masks import Appearance, BoxSettings
from weaksam_cli.propose.region_tree_masks.leaves import pooled, watersheds
from weaksam_cli.propose.region_tree_masks.walker import (
    Window,
    directions,
    similarity,
    squared_distances,
    walk,
)

_BLOCKS = (4, 5)
"""Of HED, whose features are compared."""
_STABILITY_OFFSET = 0.05
"""Half width of the band of votes over which stability is measured."""
_NEAR_MOST = 0.9
"""Of the most votes that any pixel has: a threshold above that would leave no mask."""


@dataclass(frozen=True)
class Seen:
    """What masks of boxes need of an image, in working pixels.

    Attributes:
        leaves: bounded by watersheds of the edges.
        alike: how alike n leaves are, float32 (n, n), for each random walker.
        forests: trees over other leaves, and trees over these.
    """

    leaves: Leaves
    alike: tuple[FloatArray, ...]
    forests: tuple[Forest, ...]


class BoxMaskSegmenter(RegionTreeSegmenter):
    """Answers points as the region tree does, and boxes with masks that are made for them.

    What only boxes need is computed for the first box of an image.
    """

    def __init__(self, tree: TreeSettings, boxes: BoxSettings, network: HedNetwork | None) -> None:
        super().__init__(tree)
        self.boxes = boxes
        self.network = network
        self._pixels: NDArray[np.uint8]
        self._seen: Seen | None = None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Segment the image (H, W, 3), uint8 RGB, that the next prompts are about.

        Raises:
            ValueError: for another shape or dtype.
        """
        super().set_image(image)
        self._pixels, self._seen = self._image().canvas.shrink(image), None

    def prompt_boxes(
        self, boxes: FloatArray, *, masks: bool = False, multimask: bool = True
    ) -> PromptedMasks:
        """Masks of n box prompts, float32 (n, 4), xyxy pixel edges: the pixels with the votes for part, object and whole.

        The predicted IoU is the one that the votes, taken as probabilities, let expect, times that of the mask's box with
        the prompt. Without `multimask` the object alone is answered.

        Raises:
            ValueError: for another shape, or no image set.
        """
        canvas = self._image().canvas
        prompts = clip(as_boxes(boxes), canvas.height, canvas.width)
        thresholds = self.boxes.thresholds if multimask else self.boxes.thresholds[OBJECT : OBJECT + 1]
        rows, columns = canvas.rows(), canvas.columns()
        found: list[list[bytes]] = []
        expected = np.zeros((len(prompts), len(thresholds)), np.float32)
        stability = np.zeros_like(expected)
        for index, box in enumerate(canvas.boxes_to_working(prompts)):
            window = Window.of_box(box, canvas.working_height, canvas.working_width)
            votes = count_votes(self._look(), window, self.boxes)[rows][:, columns]
            found.append(encode(above(votes, thresholds)))
            expected[index], stability[index] = judge(votes, thresholds)
        size, flat = (canvas.height, canvas.width), [item for row in found for item in row]
        tight = tight_boxes(flat, *size).reshape(*expected.shape, 4)
        for index, box in enumerate(prompts):
            expected[index] *= iou(tight[index], box[None])[:, 0]
        return PromptedMasks(
            tight, areas(flat, *size).reshape(expected.shape), expected, stability, found if masks else None
        )

    def _look(self) -> Seen:
        if self._seen is None:
            self._seen = look(self._pixels, self._image().forest, self.boxes, self.network)
        return self._seen


def look(image: NDArray[np.uint8], forest: Forest, settings: BoxSettings, network: HedNetwork | None) -> Seen:
    """Leaves, their likeness and their trees, of an image uint8 RGB (h, w, 3) that has a forest.

    Without a network the gradient stands for the edges.
    """
    pixels = pixel_features(image)
    features: Sequence[FloatArray] = ()
    if network is None:
        edges = _contrast(pixels.gradient)
    else:
        edges, features = edges_and_features(network, image, _BLOCKS)
    relief = np.asarray(edges + np.float32(settings.gradient) * pixels.gradient, np.float32)
    labels = watersheds(relief, settings.smoothing, settings.max_leaves)
    leaves = describe(labels, replace(pixels, gradient=edges))
    return Seen(
        leaves,
        _likeness(leaves, pixels, features, settings),
        (forest, grow([leaves], settings.criteria)),
    )


def _contrast(gradient: FloatArray) -> FloatArray:
    """The gradient (h, w) in the place of learned edges: 1 where it is strongest, but for the strongest hundredth."""
    strong = max(float(np.percentile(gradient, 99)), 1e-6)
    return np.asarray(np.minimum(gradient / strong, 1), np.float32)


def _likeness(
    leaves: Leaves, pixels: PixelFeatures, features: Sequence[FloatArray], settings: BoxSettings
) -> tuple[FloatArray, ...]:
    """How alike leaves are for each appearance that is known; by colour where the network's features are not."""
    lab = pixels.colours["lab"].astype(np.float32).transpose(2, 0, 1)
    distances = {"lab": squared_distances(pooled(leaves.labels, lab))}
    for block, item in zip(_BLOCKS, features, strict=False):
        distances[f"conv{block}"] = squared_distances(directions(pooled(leaves.labels, item)))
    wanted = settings.appearances if features else (Appearance(lab=1),)
    return tuple(
        similarity(
            [(weight, distances[name]) for name, weight in item.model_dump().items() if weight],
            settings.bandwidth,
        )
        for item in wanted
    )


def count_votes(seen: Seen, window: Window, settings: BoxSettings) -> FloatArray:
    """Share of the votes, in [0, 1], that every pixel (h, w) is of the object: half of walkers, half of nodes.

    A node that fits well both the box and the walkers' mask votes for its pixels.
    """
    walked = np.zeros(seen.leaves.labels.shape, np.float32)
    of_leaves = np.mean([walk(seen.leaves, alike, window, settings) for alike in seen.alike], axis=0)
    walked[window.pixels] = of_leaves[seen.leaves.labels[window.pixels]]
    guide = above(walked, (settings.thresholds[OBJECT],))[0]
    nodes = [node_votes(forest, guide, window, settings) for forest in seen.forests]
    return np.asarray((walked + np.mean(nodes, axis=0)) / 2, np.float32)


def node_votes(forest: Forest, guide: NDArray[np.bool_], window: Window, settings: BoxSettings) -> FloatArray:
    """Share of the best nodes, weighted by their fit, that contain each pixel, float32 (h, w).

    The fit is the node's IoU with the mask `guide` (h, w), which has a pixel, times the IoU of its box with the window.
    """
    common = forest.node_sums(guide.astype(np.float64))
    of_mask = common / (forest.size + guide.sum() - common)
    box = as_boxes([[window.left, window.top, window.right, window.bottom]])
    fit = of_mask * iou(forest.boxes, box)[:, 0]
    best = np.argsort(-fit, kind="stable")[: settings.voters]
    weight = fit[best] ** settings.vote_power
    weight /= weight.sum()
    return np.asarray(np.tensordot(weight, forest.masks(best).astype(np.float64), axes=1), np.float32)


def above(votes: FloatArray, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Pixels (k, h, w) with more votes than each threshold; none is empty where any pixel has a vote."""
    most = _NEAR_MOST * float(votes.max())
    return np.stack([votes > min(threshold, most) for threshold in thresholds])


def judge(votes: FloatArray, thresholds: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Of the masks `above` k thresholds, float32 (k,) each: the IoU to expect of independent pixels, and the stability.

    The stability is SAM's, with votes in the place of logits: the area of a stricter mask over that of a laxer one.
    """
    masks = above(votes, thresholds)
    total = float(votes.sum())
    hit = np.asarray([float(votes[mask].sum()) for mask in masks])
    area = masks.sum(axis=(1, 2))
    strict = [np.count_nonzero(votes > threshold + _STABILITY_OFFSET) for threshold in thresholds]
    lax = [np.count_nonzero(votes > threshold - _STABILITY_OFFSET) for threshold in thresholds]
    expected = hit / np.maximum(area + total - hit, 1e-6)
    return expected.astype(np.float32), (np.asarray(strict) / np.maximum(lax, 1)).astype(np.float32)
