from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.core.affinity import cell_affinity


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
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


def test_a_threshold_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        cell_affinity(np.zeros((1, 1, 1), np.float32), threshold=1.0)
