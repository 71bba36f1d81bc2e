"""Binary partition trees: leaves are merged, and all trees of an image stand in flat arrays, node after node.

Greedy merging (Uijlings et al., IJCV 2013) joins one pair at a time. Two regions that prefer each other would be joined
by it too, unless a merger elsewhere comes between; joining all pairs that are each other's best neighbour at once, in all
trees at once, takes some fifty rounds of array arithmetic in place of thousands of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, IntArray
from weaksam_cli.propose.region_tree import Criterion
from weaksam_cli.propose.region_tree.leaves import Borders, Leaves, join


@dataclass(frozen=True)
class Forest:
    """The nodes of all trees: first the leaves, tree after tree, then the others, children before parents.

    Attributes:
        labels: int32 (s, h, w), leaves of every over-segmentation, numbered from 0 in each.
        tree_labels: int64 (t,), the over-segmentation of every tree.
        first_leaf: int64 (t,), the node that is leaf 0 of every tree.
        tree: int64 (m,), the tree of every node.
        parent: int64 (m,), index of the parent; a root is its own parent.
        start, end: int64 (m,), a node owns the leaves whose `start` is in [start, end); of two nodes one contains the
            other or they have nothing in common, and so do their intervals.
        larger_child: int64 (m,), the child with more pixels; a leaf is its own.
        boxes: float32 (m, 4), xyxy pixel edges.
        size: float32 (m,), areas in pixels.
        level: float32 (m,), level of merging at which the node appears, in [0, 1].
    """

    labels: NDArray[np.int32]
    tree_labels: IntArray
    first_leaf: IntArray
    tree: IntArray
    parent: IntArray
    start: IntArray
    end: IntArray
    larger_child: IntArray
    boxes: FloatArray
    size: FloatArray
    level: FloatArray

    def __len__(self) -> int:
        return len(self.tree)

    def persistence(self) -> FloatArray:
        """Levels between a node and its parent, shape (m,); a root lives on to level 1."""
        is_root = self.parent == np.arange(len(self))
        lifetime: FloatArray = np.where(is_root, np.float32(1), self.level[self.parent]) - self.level
        return lifetime

    def place(self) -> IntArray:
        """How many nodes of the same tree are larger, shape (m,); among equal ones the later is taken as larger."""
        order = np.lexsort((-np.arange(len(self)), -self.size, self.tree))
        first = np.searchsorted(self.tree[order], np.arange(len(self.tree_labels)))
        place = np.empty(len(self), np.int64)
        place[order] = np.arange(len(self)) - first[self.tree[order]]
        return place

    def stability(self, offset: float) -> FloatArray:
        """How little a node changes when the tree is cut `offset` above or below the middle of its life, (m,).

        The size of the node that the lower cut leaves (of children, the larger) divided by the size of the node that
        the upper cut gives: SAM's stability, with levels of merging in the place of logits. A node that lives for
        more than twice the offset has 1.
        """
        middle = self.level + self.persistence() / 2
        inner = self._walk(self.larger_child, lambda node: self.level[node] > middle - offset)
        outer = self._walk(self.parent, lambda node: self.level[self.parent[node]] < middle + offset)
        ratio: FloatArray = self.size[inner] / self.size[outer]
        return ratio

    def _walk(self, step: IntArray, goes_on: Callable[[IntArray], NDArray[np.bool_]]) -> IntArray:
        node = np.arange(len(self))
        while True:
            following = np.where(goes_on(node), step[node], node)
            if np.array_equal(following, node):
                return node
            node = following

    def node_sums(self, weights: NDArray[np.float64]) -> IntArray:
        """Sum of `weights` (h, w) over the pixels of every node, rounded to whole numbers, shape (m,)."""
        per_group = [np.bincount(labels.ravel(), weights.ravel()) for labels in self.labels]
        per_leaf = np.concatenate([per_group[group] for group in self.tree_labels])
        by_position = np.zeros(len(per_leaf) + 1)
        by_position[self.start[: len(per_leaf)] + 1] = per_leaf
        running = np.cumsum(by_position)
        return np.rint(running[self.end] - running[self.start]).astype(np.int64)

    def masks(self, nodes: IntArray) -> NDArray[np.bool_]:
        """Pixels of the nodes (n,), bool (n, h, w)."""
        result = np.empty((len(nodes), *self.labels.shape[1:]), bool)
        for index, node in enumerate(nodes):
            tree = self.tree[node]
            labels = self.labels[self.tree_labels[tree]]
            position = self.start[self.first_leaf[tree] + np.arange(int(labels.max()) + 1)]
            result[index] = ((position >= self.start[node]) & (position < self.end[node]))[labels]
        return result


@dataclass(frozen=True)
class _Nodes:
    """What merging knows of m nodes; those to come are filled in while it goes on.

    Attributes:
        tree, size, boxes: see `Forest`.
        histograms: see `Leaves`, of m rows.
    """

    tree: IntArray
    size: FloatArray
    boxes: FloatArray
    histograms: tuple[FloatArray, ...]


def grow(groups: Sequence[Leaves], criteria: Sequence[Criterion]) -> Forest:
    """One tree per set of leaves and criterion, in this order, criteria fastest."""
    per_tree = [leaves for leaves in groups for _ in criteria]
    ends = np.cumsum([len(leaves) for leaves in per_tree])
    first_leaf, n = ends - [len(leaves) for leaves in per_tree], int(ends[-1])
    nodes = _allocate(per_tree, n)
    table = np.asarray([list(item.model_dump().values()) for item in criteria] * len(groups), np.float32)
    weights = (table / table.sum(axis=1, keepdims=True)).T
    similarity = partial(_similarity, nodes, weights, groups[0].labels.size)
    borders = Borders(
        np.concatenate(
            [leaves.borders.pairs + first for leaves, first in zip(per_tree, first_leaf, strict=True)]
        ),
        np.concatenate([leaves.borders.length for leaves in per_tree]),
        np.concatenate([leaves.borders.strength for leaves in per_tree]),
    )
    alike = similarity(borders)
    children, unlike, round_ends = [np.zeros((0, 2), np.int64)], [np.zeros(n, np.float32)], [n]
    while len(borders.pairs):
        chosen = _mutually_best(borders.pairs, alike, round_ends[-1])
        pairs = borders.pairs[chosen]
        children.append(pairs)
        unlike.append(1 - alike[chosen])
        _join_nodes(nodes, pairs, round_ends[-1])
        borders, alike = _contract(borders, alike, pairs, round_ends[-1], similarity)
        round_ends.append(round_ends[-1] + len(pairs))
    return Forest(
        labels=np.stack([leaves.labels for leaves in groups]),
        tree_labels=np.repeat(np.arange(len(groups)), len(criteria)),
        first_leaf=first_leaf,
        tree=nodes.tree,
        boxes=nodes.boxes,
        size=nodes.size,
        **_relations(nodes, first_leaf, np.concatenate(children), round_ends, np.concatenate(unlike)),
    )


def _relations(
    nodes: _Nodes, first_leaf: IntArray, children: IntArray, round_ends: list[int], unlike: FloatArray
) -> dict[str, NDArray[Any]]:
    """The other fields of a forest of m nodes and n leaves.

    Args:
        nodes: all of them.
        first_leaf: see `Forest`.
        children: int64 (m - n, 2), children of node n + i.
        round_ends: number of nodes after every round of merging, beginning with n.
        unlike: float32 (m,), how unlike the two children were, in [0, 1]; 0 for leaves.
    """
    m, n = len(nodes.tree), round_ends[0]
    rounds = list(itertools.pairwise(round_ends))
    leaves, level = np.ones(m, np.int64), unlike.clip(0, 1)
    for begin, stop in rounds:
        pairs = children[begin - n : stop - n]
        leaves[begin:stop] = leaves[pairs].sum(axis=1)
        level[begin:stop] = np.maximum(level[begin:stop], level[pairs].max(axis=1))
    parent, larger = np.arange(m), np.arange(m)
    parent[children] = np.arange(n, m)[:, None]
    larger[n:] = children[np.arange(m - n), nodes.size[children].argmax(axis=1)]
    start = first_leaf[nodes.tree]
    for begin, stop in reversed(rounds):
        first, second = children[begin - n : stop - n].T
        start[first] = start[begin:stop]
        start[second] = start[begin:stop] + leaves[first]
    return {"parent": parent, "start": start, "end": start + leaves, "larger_child": larger, "level": level}


def _allocate(per_tree: list[Leaves], n: int) -> _Nodes:
    total = 2 * n - len(per_tree)

    def filled(parts: list[FloatArray]) -> FloatArray:
        whole = np.empty((total, *parts[0].shape[1:]), np.float32)
        np.concatenate(parts, out=whole[:n])
        return whole

    tree = np.empty(total, np.int64)
    tree[:n] = np.repeat(np.arange(len(per_tree)), [len(leaves) for leaves in per_tree])
    return _Nodes(
        tree,
        filled([leaves.size for leaves in per_tree]),
        filled([leaves.boxes for leaves in per_tree]),
        tuple(filled(list(kind)) for kind in zip(*(leaves.histograms for leaves in per_tree), strict=True)),
    )


def _similarity(nodes: _Nodes, weights: FloatArray, pixels: int, borders: Borders) -> FloatArray:
    """How alike the two nodes of every border are: a weighted mean of terms, in [0, 1], shape (e,).

    Args:
        nodes: of all trees.
        weights: float32 (6, t), of the terms of `Criterion`, in their order; they sum to 1 in every tree.
        pixels: of the image.
        borders: e of them.
    """
    a, b = borders.pairs.T
    *of_histograms, of_size, of_fill, of_border = weights[:, nodes.tree[a]]
    both = nodes.size[a] + nodes.size[b]
    score = of_size * (1 - both / np.float32(pixels))
    box = _hull(nodes.boxes[a], nodes.boxes[b])
    gap = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) - both
    score += of_fill * (1 - gap / np.float32(pixels))
    score += of_border * (1 - borders.strength / borders.length)
    for weight, histogram in zip(of_histograms, nodes.histograms, strict=True):
        used = np.flatnonzero(weight)
        common = np.minimum(histogram[a[used]], histogram[b[used]]).sum(axis=1)
        score[used] += weight[used] * common
    return score


def _mutually_best(pairs: IntArray, alike: FloatArray, count: int) -> IntArray:
    """Indexes of pairs that are the best of both their nodes, ascending; of equal ones the first wins."""
    a, b = pairs.T
    best = np.full(count, -np.inf, np.float32)
    np.maximum.at(best, a, alike)
    np.maximum.at(best, b, alike)
    tied = np.flatnonzero((alike == best[a]) & (alike == best[b]))
    first = np.full(count, len(pairs), np.int64)
    np.minimum.at(first, a[tied], tied)
    np.minimum.at(first, b[tied], tied)
    return tied[(first[a[tied]] == tied) & (first[b[tied]] == tied)]


def _join_nodes(nodes: _Nodes, pairs: IntArray, first_node: int) -> None:
    a, b = pairs.T
    new = slice(first_node, first_node + len(pairs))
    nodes.tree[new] = nodes.tree[a]
    nodes.size[new] = nodes.size[a] + nodes.size[b]
    nodes.boxes[new] = _hull(nodes.boxes[a], nodes.boxes[b])
    share = (nodes.size[a] / nodes.size[new])[:, None]
    for histogram in nodes.histograms:
        histogram[new] = histogram[a] * share + histogram[b] * (1 - share)


def _contract(
    borders: Borders,
    alike: FloatArray,
    pairs: IntArray,
    first_node: int,
    similarity: Callable[[Borders], FloatArray],
) -> tuple[Borders, FloatArray]:
    """Borders and their similarities after `pairs` became nodes; only borders of the new nodes are measured anew."""
    new_name = np.arange(first_node)
    new_name[pairs] = first_node + np.arange(len(pairs))[:, None]
    renamed = new_name[borders.pairs]
    touched = (renamed != borders.pairs).any(axis=1)
    outer = touched & (renamed[:, 0] != renamed[:, 1])
    fresh = join(renamed[outer], borders.length[outer], borders.strength[outer], first_node + len(pairs))
    kept = ~touched
    after = Borders(
        np.concatenate([borders.pairs[kept], fresh.pairs]),
        np.concatenate([borders.length[kept], fresh.length]),
        np.concatenate([borders.strength[kept], fresh.strength]),
    )
    return after, np.concatenate([alike[kept], similarity(fresh)])


def _hull(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.concatenate([np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1)
