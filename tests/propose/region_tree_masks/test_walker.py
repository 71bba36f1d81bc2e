"""Random walkers over leaves: what is inside a box, and what looks like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree.leaves import Leaves, describe, pixel_features
from weaksam_cli.propose.region_tree_masks import BoxSettings
from weaksam_cli.propose.region_tree_masks.walker import (
    Window,
    directions,
    similarity,
    squared_distances,
    walk,
)


def tiles(rows: int, columns: int, side: int = 4) -> NDArray[np.int32]:
    """Square leaves in a grid."""
    numbers = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return numbers.repeat(side, axis=0).repeat(side, axis=1)


def leaves_of(labels: NDArray[np.int32], edges: float = 0.0) -> Leaves:
    pixels = pixel_features(np.zeros((*labels.shape, 3), np.uint8))
    return describe(labels, replace(pixels, gradient=np.full(labels.shape, edges, np.float32)))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([2, 3, 7, 9], (3, 9, 2, 7)),
        ([2.4, 3.6, 7.4, 9.4], (4, 9, 2, 7)),
        ([0, 0, 20, 10], (0, 10, 0, 20)),
        ([5, 5, 5, 5], (5, 6, 5, 6)),  # without a pixel: the nearest
        ([20, 10, 20, 10], (9, 10, 19, 20)),
        ([3.1, 0, 3.3, 10], (0, 10, 3, 4)),
    ],
)
def test_window(box: list[float], expected: tuple[int, ...]) -> None:
    found = Window.of_box(np.asarray(box, np.float32), 10, 20)
    assert (found.top, found.bottom, found.left, found.right) == expected


def test_the_prior_falls_from_the_middle_to_the_corners_alike_on_all_sides() -> None:
    prior = Window(0, 9, 0, 15).prior(1.0, 2.0)
    assert prior.shape == (9, 15)
    np.testing.assert_allclose(prior, prior[::-1, ::-1], atol=1e-6)
    assert prior[4, 7] == prior.max() == pytest.approx(1.0)
    assert prior[0, 0] == prior.min() >= 1.0 - 2.0 * 2


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 99))
def test_similarity(n: int, channels: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(n, channels)).astype(np.float32)
    alike = similarity(
        [(2.0, squared_distances(features)), (1.0, squared_distances(directions(features)))], 2.0
    )
    np.testing.assert_allclose(alike, alike.T, atol=1e-5)
    np.testing.assert_array_equal(np.diag(alike), 1)
    assert (alike > 0).all() and (alike <= 1).all()


@pytest.mark.parametrize("value", [0.0, 7.3, 255.0])
def test_equal_rows_are_alike_whatever_rounding_makes_of_them(value: float) -> None:
    np.testing.assert_array_equal(squared_distances(np.full((6, 3), value, np.float32)), 0)


@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_answers_are_probabilities_and_0_outside(count: int) -> None:
    labels = tiles(count, count)
    leaves = leaves_of(labels, edges=0.3)
    alike = np.ones((len(leaves), len(leaves)), np.float32)
    window = Window(0, 4 * max(count - 1, 1), 0, 4 * max(count - 1, 1))
    found = walk(leaves, alike, window, BoxSettings())
    assert ((found >= 0) & (found <= 1)).all()
    outside = np.setdiff1d(labels, labels[window.pixels])
    np.testing.assert_array_equal(found[outside], 0)
    assert found[labels[window.pixels]].min() > 0


def test_what_looks_like_the_outside_is_outside() -> None:
    """A grid of 7 x 7 leaves; the object is the middle 3 x 3 of another look, the box has a ring more around it."""
    labels = tiles(7, 7)
    look = np.zeros((7, 7), np.float32)
    look[2:5, 2:5] = 1
    alike = similarity([(1.0, squared_distances(look.reshape(-1, 1)))], 2.0)
    found = walk(leaves_of(labels), alike, Window(4, 24, 4, 24), BoxSettings(restart=1.0)).reshape(7, 7)
    assert found[2:5, 2:5].min() > 0.5 > max(found[1, 1:6].max(), found[1:6, 1].max())


def test_an_edge_keeps_the_outside_out() -> None:
    labels = tiles(5, 5)
    pixels = pixel_features(np.zeros((20, 20, 3), np.uint8))
    alike, means = np.ones((25, 25), np.float32), []
    for strength in (0.0, 1.0):
        edges = np.zeros((20, 20), np.float32)
        edges[4:16, 4:16] = strength
        edges[5:15, 5:15] = 0
        leaves = describe(labels, replace(pixels, gradient=edges))
        means.append(walk(leaves, alike, Window(4, 16, 4, 16), BoxSettings()).reshape(5, 5)[1:4, 1:4].mean())
    assert means[1] > means[0]


def test_a_box_in_one_leaf_has_an_answer() -> None:
    found = walk(leaves_of(tiles(2, 2, 10)), np.ones((4, 4), np.float32), Window(2, 5, 2, 5), BoxSettings())
    assert found[0] > 0
    np.testing.assert_array_equal(found[1:], 0)
