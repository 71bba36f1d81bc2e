from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as example
from hypothesis import settings
from hypothesis import strategies as st

from weaksam_cli.core.maps import cell_affinity, classes_of_views, normalise, resize_bilinear

THRESHOLD = -0.5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 2], [[1, 0, 1], [1, 0, 1], [1, 0, 1]]),
        ([], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        # No class passes in the first view, so the second decides, for the third as well.
        (None, [[0, 0, 0], [0, 1, 0], [0, 1, 0]]),
    ],
)
def test_classes_that_enter(given: list[int] | None, expected: list[list[int]]) -> None:
    logits = np.asarray([[-0.5, -0.6, -3], [-1, -0.4, -2], [5, 5, 5]], np.float32)
    assert classes_of_views(given, logits, THRESHOLD).astype(int).tolist() == expected


def test_no_view_may_pass() -> None:
    assert not classes_of_views(None, np.full((2, 3), -4, np.float32), THRESHOLD).any()


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_any_number_of_maps_is_resized(count: int) -> None:
    resized = resize_bilinear(np.ones((count, 3, 2, 2), np.float16), 4, 5)
    assert resized.shape == (count, 3, 4, 5)
    np.testing.assert_allclose(resized, 1, rtol=1e-6)


def test_normalisation_spans_zero_to_one() -> None:
    maps = np.random.default_rng(1).normal(size=(3, 2, 6, 7)).astype(np.float32)
    scaled = normalise(maps)
    assert (scaled.min(axis=(-2, -1)) == 0).all()
    np.testing.assert_allclose(scaled.max(axis=(-2, -1)), 1, atol=1e-6)


def test_rounding_noise_of_a_flat_map_is_no_peak() -> None:
    resized = resize_bilinear(np.ones((1, 2, 2), np.float32), 4, 5)
    assert not normalise(resized).any()


def test_resizing_repeats_the_border() -> None:
    resized = resize_bilinear(np.asarray([[[0, 1]]], np.float32), 1, 4)
    np.testing.assert_allclose(resized[0, 0], [0, 0.25, 0.75, 1])


@settings(max_examples=40, deadline=None)
@example(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_rows_are_distributions_and_no_cell_is_nearer_than_itself(
    channels: int, height: int, width: int, seed: int
) -> None:
    features = np.random.default_rng(seed).normal(size=(channels, height, width)).astype(np.float32)
    affinity = cell_affinity(features)
    assert affinity.shape == (height * width, height * width)
    assert (affinity >= 0).all()
    assert np.allclose(affinity.sum(axis=1), 1, atol=1e-5)
    assert (np.diag(affinity) >= affinity.max(axis=1) - 1e-5).all()


def test_a_flat_image_leaves_maps_as_they_are() -> None:
    assert np.array_equal(cell_affinity(np.ones((3, 2, 2), np.float32)), np.eye(4, dtype=np.float32))


def test_a_channel_that_all_cells_share_says_nothing() -> None:
    features = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    shared = np.concatenate([features, np.full((1, 2, 3), 7, np.float32)])
    assert np.allclose(cell_affinity(features), cell_affinity(shared), atol=1e-5)
