"""From prompts to nodes: which three nested nodes of one tree answer a point, several points or a box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, IntArray, iou
from weaksam_cli.propose.prompting import BACKGROUND, FOREGROUND
from weaksam_cli.propose.region_tree.trees import Forest

OBJECT = 1
"""Of the three masks of a prompt (part, object, whole)."""

_BACKGROUND_PENALTY = np.float32(10)
"""More than any difference of quality: a node without background points always wins."""


def nodes_of_points(
    forest: Forest,
    quality: FloatArray,
    columns: IntArray,
    rows: IntArray,
    labels: NDArray[np.int8],
    ratio: float,
) -> IntArray:
    """Part, object and whole of n prompts of p points each, int64 (n, 3).

    In every tree the candidates are the nodes that contain all foreground points. The object is the one of best
    quality over all trees; part and whole are the best among its descendants and ancestors on the same path whose
    area differs by `ratio` or more, or else the ends of the path.

    Args:
        forest: the trees of the image.
        quality: float32 (m,), of every node, in [0, 1].
        columns, rows: int64 (n, p), working pixels.
        labels: int8 (n, p), 1 foreground, 0 background, anything else is ignored; one foreground point at least.
        ratio: least ratio of area.
    """
    leaves = (
        forest.labels[:, rows, columns].astype(np.int64)[forest.tree_labels]
        + forest.first_leaf[:, None, None]
    )
    leaves = leaves.transpose(1, 0, 2)  # (n, trees, p)
    foreground, background = (labels == FOREGROUND)[:, None, :], (labels == BACKGROUND)[:, None, :]
    position = forest.start[leaves]
    first = np.where(foreground, position, len(forest)).min(axis=2)
    last = np.where(foreground, position, -1).max(axis=2)
    node = leaves[np.arange(len(leaves)), :, foreground[:, 0].argmax(axis=1)]
    while (outside := (forest.start[node] > first) | (forest.end[node] <= last)).any():
        node = np.where(outside, forest.parent[node], node)
    path = _paths(forest, node)  # (n, trees, depth), from the smallest node to the root
    value = quality[path]
    for point in np.flatnonzero(background.any(axis=(0, 1))):
        inside = (forest.start[path] <= position[:, :, point, None]) & (
            position[:, :, point, None] < forest.end[path]
        )
        value = value - _BACKGROUND_PENALTY * (inside & background[:, :, point, None])
    return _nested(forest, path, value, ratio)


def nodes_of_boxes(forest: Forest, quality: FloatArray, boxes: FloatArray, ratio: float) -> IntArray:
    """Part, object and whole of n boxes (n, 4) of working pixels, int64 (n, 3).

    The object is the node whose box fits best, quality deciding between like ones; part and whole are the nodes of
    best quality below and above it whose area differs by `ratio` or more, or else the object itself and the root.
    """
    chosen = np.empty((len(boxes), 3), np.int64)
    for index, box in enumerate(boxes):
        fit = iou(forest.boxes, box[None])[:, 0]
        best = int((fit + np.float32(0.05) * quality).argmax())
        start, end, size = forest.start, forest.end, forest.size
        below = (start >= start[best]) & (end <= end[best]) & (size * ratio <= size[best])
        above = (start <= start[best]) & (end >= end[best])
        large = above & (size >= size[best] * ratio)
        part = np.where(below, quality, -1).argmax() if below.any() else best
        whole = np.where(large, quality, -1).argmax() if large.any() else np.where(above, size, -1).argmax()
        chosen[index] = part, best, whole
    return chosen


def _paths(forest: Forest, node: IntArray) -> IntArray:
    """The way from every node to its root, shape (*node.shape, longest); short ways repeat the root."""
    steps = [node]
    while not np.array_equal(above := forest.parent[steps[-1]], steps[-1]):
        steps.append(above)
    return np.stack(steps, axis=-1)


def _nested(forest: Forest, path: IntArray, value: FloatArray, ratio: float) -> IntArray:
    n, _, longest = path.shape
    prompt = np.arange(n)
    best = value.reshape(n, -1).argmax(axis=1)
    tree, step = best // longest, best % longest
    way, value = path[prompt, tree], value[prompt, tree]  # (n, longest)
    size, chosen = forest.size[way], forest.size[way[prompt, step]][:, None]
    below = np.where(size * ratio <= chosen, value, -np.inf)
    above = np.where(size >= chosen * ratio, value, -np.inf)
    part = np.where(np.isfinite(below).any(axis=1), below.argmax(axis=1), 0)
    whole = np.where(np.isfinite(above).any(axis=1), above.argmax(axis=1), longest - 1)
    return np.stack([way[prompt, part], way[prompt, step], way[prompt, whole]], axis=1)
