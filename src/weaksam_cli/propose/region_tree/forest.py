"""All trees of an image, node after node in flat arrays, so that every question is one array expression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, IntArray
from weaksam_cli.propose.region_tree.merge import Merging

_Condition = Callable[[IntArray], NDArray[np.bool_]]


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
        depth: int64 (m,), number of ancestors.
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
    depth: IntArray

    def __len__(self) -> int:
        return len(self.tree)

    def persistence(self) -> FloatArray:
        """Levels between a node and its parent, shape (m,); a root lives on to level 1."""
        is_root = self.parent == np.arange(len(self))
        death = np.where(is_root, np.float32(1), self.level[self.parent])
        lifetime: FloatArray = death - self.level
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

    def _walk(self, step: IntArray, goes_on: _Condition) -> IntArray:
        node = np.arange(len(self))
        while True:
            following = np.where(goes_on(node), step[node], node)
            if np.array_equal(following, node):
                return node
            node = following


def plant(labels: NDArray[np.int32], tree_labels: IntArray, merging: Merging) -> Forest:
    """The forest of `merging`, whose tree i has the regions of `labels[tree_labels[i]]` as leaves."""
    m, n = len(merging.nodes.tree), int(merging.leaves_of[-1])
    rounds = list(zip(merging.round_ends, merging.round_ends[1:], strict=False))
    leaves, level = np.ones(m, np.int64), merging.unlike.clip(0, 1)
    for begin, stop in rounds:
        children = merging.children[begin - n : stop - n]
        leaves[begin:stop] = leaves[children].sum(axis=1)
        level[begin:stop] = np.maximum(level[begin:stop], level[children].max(axis=1))
    parent = np.arange(m)
    parent[merging.children] = np.arange(n, m)[:, None]
    start, depth = merging.leaves_of[merging.nodes.tree], np.zeros(m, np.int64)
    for begin, stop in reversed(rounds):
        first, second = merging.children[begin - n : stop - n].T
        start[first] = start[begin:stop]
        start[second] = start[begin:stop] + leaves[first]
        depth[first] = depth[second] = depth[begin:stop] + 1
    larger = np.arange(m)
    bigger = merging.nodes.size[merging.children].argmax(axis=1)
    larger[n:] = merging.children[np.arange(m - n), bigger]
    return Forest(
        labels=labels,
        tree_labels=tree_labels,
        first_leaf=merging.leaves_of[:-1],
        tree=merging.nodes.tree,
        parent=parent,
        start=start,
        end=start + leaves,
        larger_child=larger,
        boxes=merging.nodes.boxes,
        size=merging.nodes.size,
        level=level,
        depth=depth,
    )
