"""All trees of a picture, node after node in flat arrays, so that every question is one array expression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree.leaves import FloatArray, IntArray, Leaves
from weaksam_cli.propose.region_tree.merge import Merging

_Condition = Callable[[IntArray], NDArray[np.bool_]]


@dataclass(frozen=True)
class Forest:
    """The nodes of all trees; trees follow each other, children come before parents, a tree's root is its last.

    Attributes:
        labels: int32 (s, h, w), leaves of every over-segmentation, numbered from 0 in each.
        tree_labels: int64 (t,), the over-segmentation of every tree.
        first_node: int64 (t,), the node that is leaf 0 of every tree.
        tree: int64 (m,), the tree of every node.
        parent: int64 (m,), index of the parent; a root is its own parent.
        start, end: int64 (m,), a node owns the leaves of its tree whose `position` is in [start, end).
        larger_child: int64 (m,), the child with more pixels; a leaf is its own.
        boxes: float32 (m, 4), xyxy pixel edges.
        size: float32 (m,), areas in pixels.
        level: float32 (m,), level of merging at which the node appears, in [0, 1].
        depth: int64 (m,), number of ancestors.
    """

    labels: NDArray[np.int32]
    tree_labels: IntArray
    first_node: IntArray
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

    def _walk(self, step: IntArray, goes_on: _Condition) -> IntArray:
        node = np.arange(len(self))
        while True:
            following = np.where(goes_on(node), step[node], node)
            if np.array_equal(following, node):
                return node
            node = following


def plant(groups: list[tuple[Leaves, list[Merging]]]) -> Forest:
    """A forest of the trees of every over-segmentation."""
    trees = [(index, merging) for index, (_, mergings) in enumerate(groups) for merging in mergings]
    sizes = np.asarray([len(merging.parent) for _, merging in trees], np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    parts = [_arrays(merging, offset) for (_, merging), offset in zip(trees, first, strict=True)]
    parent, start, end, larger, depth = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Forest(
        labels=np.stack([leaves.labels for leaves, _ in groups]),
        tree_labels=np.asarray([index for index, _ in trees], np.int64),
        first_node=first,
        tree=np.repeat(np.arange(len(trees)), sizes),
        parent=parent,
        start=start,
        end=end,
        larger_child=larger,
        boxes=np.concatenate([merging.boxes for _, merging in trees]),
        size=np.concatenate([merging.size for _, merging in trees]),
        level=np.concatenate([merging.level for _, merging in trees]),
        depth=depth,
    )


def _arrays(merging: Merging, offset: int) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Parent, start, end, larger child and depth; indexes of nodes counted from `offset`."""
    nodes, n = len(merging.parent), merging.round_ends[0]
    leaves = np.ones(nodes, np.int64)
    rounds = list(zip(merging.round_ends, merging.round_ends[1:], strict=False))
    for begin, stop in rounds:
        leaves[begin:stop] = leaves[merging.children[begin - n : stop - n]].sum(axis=1)
    start, depth = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    for begin, stop in reversed(rounds):
        first, second = merging.children[begin - n : stop - n].T
        start[first] = start[begin:stop]
        start[second] = start[begin:stop] + leaves[first]
        depth[first] = depth[second] = depth[begin:stop] + 1
    larger = np.arange(nodes)
    if len(merging.children):
        bigger = merging.size[merging.children].argmax(axis=1)
        larger[n:] = merging.children[np.arange(len(bigger)), bigger]
    parent = np.where(merging.parent < 0, np.arange(nodes), merging.parent)
    return parent + offset, start, start + leaves, larger + offset, depth
