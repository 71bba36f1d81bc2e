"""Watersheds, and what is pooled over their regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import label

from weaksam_cli.propose.region_tree_masks.leaves import basins, pooled, watersheds

reliefs = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 1]))
)


@pytest.mark.parametrize(
    ("relief", "expected"),
    [
        ([[3.0]], [[0]]),
        ([[0, 0, 0, 0]], [[0, 0, 0, 0]]),
        ([[1, 0, 5, 0, 1]], [[0, 0, 0, 1, 1]]),  # of two ways down, the first
        ([[0, 9, 1], [0, 9, 1], [0, 9, 1]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]]),
        (
            [[2, 9, 9], [9, 9, 9], [9, 9, 0]],
            [[0, 0, 0], [0, 1, 1], [0, 1, 1]],
        ),  # across a corner, and over a plateau
    ],
)
def test_water_runs_downhill(relief: list[list[float]], expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(basins(np.asarray(relief, np.float32)), expected)


@settings(max_examples=50, deadline=None)
@given(reliefs)
def test_basins_are_connected_and_numbered(relief: NDArray[np.float32]) -> None:
    labels = basins(relief)
    assert sorted(set(labels.ravel())) == list(range(labels.max() + 1))
    for number in range(labels.max() + 1):
        assert label(labels == number, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("most", [1, 2, 6, 7, 10_000])
def test_no_more_basins_than_allowed(most: int) -> None:
    noise = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    labels = watersheds(noise, 0.7, most)
    assert labels.max() < most
    assert labels.min() == 0


def test_pooling_is_the_mean_of_the_enlarged_map() -> None:
    import torch

    rng = np.random.default_rng(1)
    features, labels = rng.random((3, 4, 5)).astype(np.float32), rng.integers(0, 6, (13, 18)).astype(np.int32)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(features)[None], (13, 18), mode="bilinear", align_corners=False
    )[0].numpy()
    expected = np.stack([large[:, labels == number].mean(axis=1) for number in range(6)])
    np.testing.assert_allclose(pooled(labels, features), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_maps_of_few_cells_are_pooled(shape: tuple[int, int]) -> None:
    labels = np.zeros((3, 4), np.int32)
    np.testing.assert_allclose(pooled(labels, np.full((2, *shape), 7, np.float32)), [[7, 7]])
