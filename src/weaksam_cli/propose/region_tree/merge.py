"""Merging leaves into binary partition trees: in every round all pairs that are each other's best neighbour join.

Greedy merging (Uijlings et al., IJCV 2013) joins one pair at a time. Two regions that prefer each other would be joined
by it too, unless a merger elsewhere comes between; joining all such pairs at once, in all trees at once, takes some
fifty rounds of array arithmetic in place of thousands of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from weaksam_cli.core.boxes import FloatArray, IntArray
from weaksam_cli.propose.region_tree import Criterion
from weaksam_cli.propose.region_tree.leaves import Borders, Leaves, join


@dataclass(frozen=True)
class Nodes:
    """What is known of m nodes; those to come are filled in while merging goes on.

    Attributes:
        tree: int64 (m,), the tree of every node.
        size: float32 (m,), areas in pixels.
        boxes: float32 (m, 4), xyxy pixel edges.
        histograms: see `Leaves`, of m rows.
    """

    tree: IntArray
    size: FloatArray
    boxes: FloatArray
    histograms: tuple[FloatArray, ...]


@dataclass(frozen=True)
class Merging:
    """Binary trees over n leaves in all: nodes 0 to n - 1 are the leaves, tree after tree; children before parents.

    Attributes:
        nodes: all of them, m = 2 n - t.
        leaves_of: int64 (t + 1,), tree i has the leaves from leaves_of[i] to leaves_of[i + 1].
        children: int64 (n - t, 2), children of node n + i.
        round_ends: number of nodes after every round of merging, beginning with n.
        unlike: float32 (m,), how unlike the two children were, in [0, 1]; 0 for leaves.
    """

    nodes: Nodes
    leaves_of: IntArray
    children: IntArray
    round_ends: tuple[int, ...]
    unlike: FloatArray


def merge(groups: Sequence[Leaves], criteria: Sequence[Criterion]) -> Merging:
    """One tree per set of leaves and criterion, in this order, criteria fastest."""
    per_tree = [leaves for leaves in groups for _ in criteria]
    leaves_of = np.concatenate([[0], np.cumsum([len(leaves) for leaves in per_tree])]).astype(np.int64)
    n = int(leaves_of[-1])
    nodes = _allocate(per_tree, leaves_of)
    weights = _Weights.of(list(criteria) * len(groups), float(groups[0].labels.size))
    borders = _forest_borders(per_tree, leaves_of)
    alike = weights.similarity(nodes, borders)
    children, unlike, round_ends = [np.zeros((0, 2), np.int64)], [np.zeros(n, np.float32)], [n]
    while len(borders.pairs):
        chosen = _mutually_best(borders.pairs, alike, round_ends[-1])
        pairs = borders.pairs[chosen]
        children.append(pairs)
        unlike.append(1 - alike[chosen])
        round_ends.append(round_ends[-1] + len(pairs))
        _join_nodes(nodes, pairs, round_ends[-2])
        borders, alike = _contract(
            nodes, borders, alike, pairs=pairs, first_node=round_ends[-2], weights=weights
        )
    return Merging(nodes, leaves_of, np.concatenate(children), tuple(round_ends), np.concatenate(unlike))


def _allocate(per_tree: list[Leaves], leaves_of: IntArray) -> Nodes:
    n, total = int(leaves_of[-1]), 2 * int(leaves_of[-1]) - len(per_tree)

    def filled(parts: list[FloatArray]) -> FloatArray:
        whole = np.empty((total, *parts[0].shape[1:]), np.float32)
        np.concatenate(parts, out=whole[:n])
        return whole

    tree = np.empty(total, np.int64)
    tree[:n] = np.repeat(np.arange(len(per_tree)), np.diff(leaves_of))
    return Nodes(
        tree,
        filled([leaves.size for leaves in per_tree]),
        filled([leaves.boxes for leaves in per_tree]),
        tuple(filled(list(kind)) for kind in zip(*(leaves.histograms for leaves in per_tree), strict=True)),
    )


def _forest_borders(per_tree: list[Leaves], leaves_of: IntArray) -> Borders:
    borders = [leaves.borders for leaves in per_tree]
    return Borders(
        np.concatenate([part.pairs + first for part, first in zip(borders, leaves_of[:-1], strict=True)]),
        np.concatenate([part.length for part in borders]),
        np.concatenate([part.strength for part in borders]),
    )


@dataclass(frozen=True)
class _Weights:
    """Weights of the terms for every tree, each (t,), summing to 1 in every tree."""

    histograms: tuple[FloatArray, ...]
    size: FloatArray
    fill: FloatArray
    border: FloatArray
    pixels: float

    @classmethod
    def of(cls, criteria: Sequence[Criterion], pixels: float) -> _Weights:
        table = np.asarray(
            [[item.lab, item.hsv, item.texture, item.size, item.fill, item.border] for item in criteria],
            np.float32,
        )
        columns = (table / table.sum(axis=1, keepdims=True)).T
        return cls(tuple(columns[:3]), columns[3], columns[4], columns[5], pixels)

    def similarity(self, nodes: Nodes, borders: Borders) -> FloatArray:
        """How alike the two nodes of every border are: a weighted mean of terms, in [0, 1], shape (e,)."""
        a, b = borders.pairs.T
        tree = nodes.tree[a]
        both = nodes.size[a] + nodes.size[b]
        score = self.size[tree] * (1 - both / np.float32(self.pixels))
        box = _hull(nodes.boxes[a], nodes.boxes[b])
        gap = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) - both
        score += self.fill[tree] * (1 - gap / np.float32(self.pixels))
        score += self.border[tree] * (1 - borders.strength / borders.length)
        for per_tree, histogram in zip(self.histograms, nodes.histograms, strict=True):
            used = np.flatnonzero(per_tree[tree])
            common = np.minimum(histogram[a[used]], histogram[b[used]]).sum(axis=1)
            score[used] += per_tree[tree[used]] * common
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


def _join_nodes(nodes: Nodes, pairs: IntArray, first_node: int) -> None:
    a, b = pairs.T
    new = slice(first_node, first_node + len(pairs))
    nodes.tree[new] = nodes.tree[a]
    nodes.size[new] = nodes.size[a] + nodes.size[b]
    nodes.boxes[new] = _hull(nodes.boxes[a], nodes.boxes[b])
    share = (nodes.size[a] / nodes.size[new])[:, None]
    for histogram in nodes.histograms:
        histogram[new] = histogram[a] * share + histogram[b] * (1 - share)


def _contract(
    nodes: Nodes, borders: Borders, alike: FloatArray, *, pairs: IntArray, first_node: int, weights: _Weights
) -> tuple[Borders, FloatArray]:
    """Borders and their similarities after `pairs` became nodes; only borders of the new nodes are measured anew."""
    new_name = np.arange(first_node)
    new_name[pairs] = first_node + np.arange(len(pairs))[:, None]
    renamed = new_name[borders.pairs]
    touched = (renamed != borders.pairs).any(axis=1)
    outer = touched & (renamed[:, 0] != renamed[:, 1])
    fresh = join(renamed[outer], borders.length[outer], borders.strength[outer], first_node + len(pairs))
    kept = ~touched
    after = replace(
        borders,
        pairs=np.concatenate([borders.pairs[kept], fresh.pairs]),
        length=np.concatenate([borders.length[kept], fresh.length]),
        strength=np.concatenate([borders.strength[kept], fresh.strength]),
    )
    return after, np.concatenate([alike[kept], weights.similarity(nodes, fresh)])


def _hull(a: FloatArray, b: FloatArray) -> FloatArray:
    hull: FloatArray = np.concatenate(
        [np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])], axis=1
    )
    return hull
