"""Class maps as a prior over proposals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.wsod.component_prior import component_box, component_prior


def _map() -> np.ndarray:
    heat = np.zeros((10, 12), np.float32)
    heat[2:6, 3:9] = 0.6
    heat[3:5, 4:7] = 1.0
    heat[9, 0] = 0.7
    return heat


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, [3, 2, 9, 6]), (0.65, [4, 3, 7, 5]), (1.0, [4, 3, 7, 5]), (0.0, [0, 0, 12, 10])],
)
def test_box_of_the_largest_component(threshold: float, expected: list[int]) -> None:
    np.testing.assert_array_equal(component_box(_map(), threshold), [expected])


def test_nothing_reaches_the_threshold() -> None:
    assert component_box(np.zeros((4, 4), np.float32), 0.5).shape == (0, 4)


def test_prior_is_the_mean_iou() -> None:
    boxes = np.asarray([[3, 2, 9, 6], [4, 3, 7, 5], [10, 8, 12, 10]], np.float32)
    prior = component_prior(boxes, _map()[None], (0.5, 1.0))
    np.testing.assert_allclose(prior[:, 0], [(1 + 6 / 24) / 2, (6 / 24 + 1) / 2, 0], rtol=1e-6)


@given(st.sampled_from([0, 1, 2, 6, 7]), st.integers(0, 3), st.integers(0, 100))
def test_prior_is_a_share_for_every_number(n: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.integers(0, 10, (n, 2, 2)), axis=1).reshape(n, 4).astype(np.float32)
    maps = generator.random((k, 10, 12), dtype=np.float32)
    prior = component_prior(corners, maps, (0.2, 0.5, 0.9))
    assert prior.shape == (n, k)
    assert ((prior >= 0) & (prior <= 1)).all()
