"""Merging leaves into a binary partition tree: in every round all pairs that are each other's best neighbour join.

Greedy merging (Uijlings et al., IJCV 2013) joins one pair at a time. Two regions that prefer each other would be joined
by it too, unless a merger elsewhere comes between; joining all such pairs at once takes some twenty rounds of array
arithmetic in place of hundreds of steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree.leaves import Borders, FloatArray, IntArray, Leaves, join
from weaksam_cli.propose.region_tree.settings import Criterion


@dataclass(frozen=True)
class Merging:
    """A binary tree over n leaves: nodes 0 to n - 1 are the leaves, children come before parents, the root is last.

    Attributes:
        children: int64 (n - 1, 2), children of node n + i.
        round_ends: number of nodes after every round of merging.
        parent: int64 (2 n - 1,), -1 for the root.
        boxes: float32 (2 n - 1, 4), xyxy pixel edges.
        size: float32 (2 n - 1,), areas in pixels.
        level: float32 (2 n - 1,), how unlike the two children were, in [0, 1]; 0 for leaves; never above the parent's.
    """

    children: IntArray
    round_ends: tuple[int, ...]
    parent: IntArray
    boxes: FloatArray
    size: FloatArray
    level: FloatArray


@dataclass(frozen=True)
class _Regions:
    node: IntArray
    size: FloatArray
    boxes: FloatArray
    histograms: tuple[FloatArray, ...]

    def take(self, index: NDArray[np.generic]) -> _Regions:
        return _Regions(
            self.node[index], self.size[index], self.boxes[index], tuple(part[index] for part in self.histograms)
        )


def merge(leaves: Leaves, criterion: Criterion) -> Merging:
    """Merge all leaves into one tree."""
    n, total = len(leaves), np.float32(leaves.labels.size)
    weighted = ((criterion.lab, leaves.lab), (criterion.hsv, leaves.hsv), (criterion.texture, leaves.texture))
    weights = tuple(weight for weight, _ in weighted if weight)
    state = _Regions(
        np.arange(n, dtype=np.int64), leaves.size, leaves.boxes, tuple(part for weight, part in weighted if weight)
    )
    borders = leaves.borders
    children, boxes, size, unlike = [], [state.boxes], [state.size], [np.zeros(n, np.float32)]
    round_ends = [n]
    while len(borders.pairs):
        alike = similarity(state, borders, criterion, weights, total)
        chosen = _mutually_best(borders.pairs, alike, len(state.node))
        merged = _joined(state, borders.pairs[chosen], round_ends[-1])
        children.append(state.node[borders.pairs[chosen]])
        boxes.append(merged.boxes)
        size.append(merged.size)
        unlike.append(1 - alike[chosen])
        round_ends.append(round_ends[-1] + len(chosen))
        state, borders = _contract(state, borders, merged, borders.pairs[chosen])
    pairs = np.concatenate(children) if children else np.zeros((0, 2), np.int64)
    parent = np.full(round_ends[-1], -1, np.int64)
    parent[pairs] = np.arange(n, round_ends[-1])[:, None]
    level = _monotone(np.concatenate(unlike), pairs, round_ends)
    return Merging(pairs, tuple(round_ends), parent, np.concatenate(boxes), np.concatenate(size), level)


def similarity(
    regions: _Regions, borders: Borders, criterion: Criterion, weights: tuple[float, ...], total: np.float32
) -> FloatArray:
    """Weighted mean of the criterion's terms for every pair of `borders`, in [0, 1], shape (e,)."""
    a, b = borders.pairs.T
    score = np.zeros(len(a), np.float32)
    for weight, histogram in zip(weights, regions.histograms, strict=True):
        score += np.float32(weight) * np.minimum(histogram[a], histogram[b]).sum(axis=1)
    both = regions.size[a] + regions.size[b]
    if criterion.size:
        score += np.float32(criterion.size) * (1 - both / total)
    if criterion.fill:
        box = _hull(regions.boxes[a], regions.boxes[b])
        gap = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) - both
        score += np.float32(criterion.fill) * (1 - gap / total)
    if criterion.border:
        score += np.float32(criterion.border) * (1 - borders.strength / borders.length)
    whole = sum(weights) + criterion.size + criterion.fill + criterion.border
    mean: FloatArray = score / np.float32(whole)
    return mean


def _mutually_best(pairs: IntArray, alike: FloatArray, count: int) -> IntArray:
    """Indexes of pairs that are the best of both their regions, the most alike first; equal ones: the first wins."""
    order = np.argsort(-alike, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    best = np.full(count, len(order), np.int64)
    np.minimum.at(best, pairs[:, 0], place)
    np.minimum.at(best, pairs[:, 1], place)
    mutual = (place == best[pairs[:, 0]]) & (place == best[pairs[:, 1]])
    return order[mutual[order]]


def _joined(regions: _Regions, pairs: IntArray, first_node: int) -> _Regions:
    a, b = regions.take(pairs[:, 0]), regions.take(pairs[:, 1])
    size = a.size + b.size
    share = (a.size / size)[:, None]
    histograms = tuple(
        left * share + right * (1 - share) for left, right in zip(a.histograms, b.histograms, strict=True)
    )
    node = np.arange(first_node, first_node + len(pairs), dtype=np.int64)
    return _Regions(node, size, _hull(a.boxes, b.boxes), histograms)


def _contract(
    regions: _Regions, borders: Borders, merged: _Regions, pairs: IntArray
) -> tuple[_Regions, Borders]:
    """The regions and borders after `pairs` became `merged`."""
    count = len(regions.node)
    alive = np.ones(count, bool)
    alive[pairs] = False
    kept = int(alive.sum())
    new_index = np.cumsum(alive) - 1
    new_index[pairs] = kept + np.arange(len(pairs))[:, None]
    rest = regions.take(np.flatnonzero(alive))
    after = _Regions(
        np.concatenate([rest.node, merged.node]),
        np.concatenate([rest.size, merged.size]),
        np.concatenate([rest.boxes, merged.boxes]),
        tuple(np.concatenate(both) for both in zip(rest.histograms, merged.histograms, strict=True)),
    )
    renamed = new_index[borders.pairs]
    outer = renamed[:, 0] != renamed[:, 1]
    joined = join(renamed[outer], borders.length[outer], borders.strength[outer], len(after.node))
    return after, replace(borders, pairs=joined.pairs, length=joined.length, strength=joined.strength)


def _hull(a: FloatArray, b: FloatArray) -> FloatArray:
    hull: FloatArray = np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)
    return hull


def _monotone(unlike: FloatArray, children: IntArray, round_ends: list[int]) -> FloatArray:
    """Raise levels where a parent's would be below a child's."""
    level, n = np.maximum(unlike, 0), round_ends[0]
    for start, end in zip(round_ends, round_ends[1:], strict=False):
        below = level[children[start - n : end - n]].max(axis=1)
        level[start:end] = np.maximum(level[start:end], below)
    return level
