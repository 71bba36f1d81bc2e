"""Trees: merging, intervals, sums, stability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree import DEFAULT_CRITERIA, Criterion, TreeSettings
from weaksam_cli.propose.region_tree.leaves import describe, join, pixel_features
from weaksam_cli.propose.region_tree.ranking import among_peers, consensus, relative_rank, select
from weaksam_cli.propose.region_tree.trees import grow


def checkerboard(rows: int, columns: int, cell: int = 3) -> NDArray[np.int32]:
    cells = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return cells.repeat(cell, axis=0).repeat(cell, axis=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_trees_are_whole_and_nested(rows: int, columns: int, seed: int) -> None:
    labels = checkerboard(rows, columns)
    image = np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    forest = grow([describe(labels, pixel_features(image))], DEFAULT_CRITERIA)
    n, trees = rows * columns, len(DEFAULT_CRITERIA)
    assert len(forest) == trees * (2 * n - 1)
    roots = forest.parent == np.arange(len(forest))
    assert roots.sum() == trees
    assert (forest.size[roots] == labels.size).all()
    assert (forest.level <= forest.level[forest.parent]).all()
    assert (forest.start >= forest.start[forest.parent]).all() and (
        forest.end <= forest.end[forest.parent]
    ).all()
    np.testing.assert_array_equal(forest.node_sums(np.ones(labels.shape)), forest.size)
    some = np.random.default_rng(seed).integers(0, len(forest), 8)
    for node, mask in zip(some, forest.masks(some), strict=True):
        assert mask.sum() == forest.size[node]
        y, x = np.nonzero(mask)
        np.testing.assert_array_equal(forest.boxes[node], [x.min(), y.min(), x.max() + 1, y.max() + 1])
    stability = forest.stability(0.02)
    assert ((stability > 0) & (stability <= 1)).all()


def test_the_most_alike_neighbours_join_first() -> None:
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8], image[:, 8:] = 200, 205
    labels = checkerboard(1, 3, 4)
    forest = grow([describe(labels, pixel_features(image))], (Criterion(lab=1),))
    np.testing.assert_array_equal(forest.parent, [4, 3, 3, 4, 4])
    np.testing.assert_array_equal(forest.boxes[-1], [0, 0, 12, 4])


def test_join_adds_duplicates_whatever_their_order() -> None:
    joined = join(
        np.asarray([[1, 2], [2, 1], [0, 3]]),
        np.asarray([1, 2, 4], np.float32),
        np.asarray([1, 1, 5], np.float32),
        4,
    )
    np.testing.assert_array_equal(joined.pairs, [[0, 3], [1, 2]])
    np.testing.assert_array_equal(joined.length, [4, 3])
    np.testing.assert_array_equal(joined.strength, [5, 2])


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_relative_rank(n: int) -> None:
    rank = relative_rank(np.arange(n, dtype=np.float32)[::-1])
    np.testing.assert_allclose(rank, np.linspace(1, 0, n) if n > 1 else np.zeros(n))
    np.testing.assert_allclose(relative_rank(np.ones(n, np.float32)), 0.5 if n > 1 else 0)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 600])
def test_consensus_is_the_weighted_sum_over_all_boxes(n: int) -> None:
    rng = np.random.default_rng(n)
    corner = rng.integers(0, 20, (n, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 30, (n, 2))], axis=1).astype(np.float32)
    votes = rng.integers(1, 5, n).astype(np.float32)
    from weaksam_cli.core.boxes import iou

    wanted = np.maximum(iou(boxes, boxes) - 0.75, 0) @ votes / 0.25
    np.testing.assert_allclose(consensus(boxes, votes, 0.75), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("max_boxes", "diverse_boxes", "wanted"),
    [(1, 9, [1]), (2, 9, [1, 3]), (3, 9, [1, 3, 0]), (9, 9, [1, 3, 0]), (2, 1, [1, 0])],
)
def test_the_head_of_a_list_is_diverse(max_boxes: int, diverse_boxes: int, wanted: list[int]) -> None:
    boxes = np.asarray([[0, 0, 10, 8], [0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    quality = np.asarray([0.8, 0.9, 0.85, 0.1], np.float32)
    knobs = TreeSettings(diverse_boxes=diverse_boxes)
    np.testing.assert_array_equal(select(boxes, quality, max_boxes, knobs), wanted)


@pytest.mark.parametrize("n", [1, 2, 6, 7, 2000])
def test_among_peers_is_a_share(n: int) -> None:
    rng = np.random.default_rng(n)
    quality = rng.random(n).astype(np.float32)
    share = among_peers(quality, rng.integers(1, 50, n).astype(np.float32))
    assert share.shape == (n,)
    assert ((share >= 0) & (share < 1)).all()
    if n == 7:
        np.testing.assert_allclose(share, [(quality < value).mean() for value in quality])
