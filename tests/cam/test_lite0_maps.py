from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.cam.lite0_head import LinearHead
from weaksam_cli.cam.lite0_maps import activation_maps, coarse_maps, fine_maps, resize_maps


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _head(classes: int = 3, channels: int = 4) -> LinearHead:
    return LinearHead(_random(9, classes, channels), np.zeros(classes, np.float32))


@pytest.mark.parametrize("classes", [[], [0], [2, 0]])
def test_a_map_is_the_head_at_every_cell_without_bias_and_without_negatives(classes: list[int]) -> None:
    features, head = _random(0, 4, 2, 3), _head()
    found = activation_maps(features, head, classes)
    assert found.shape == (len(classes), 2, 3)
    for row, index in enumerate(classes):
        for y in range(2):
            for x in range(3):
                expected = max(float(head.weight[index] @ features[:, y, x]), 0)
                assert found[row, y, x] == pytest.approx(expected, abs=1e-5)


def test_a_image_and_its_mirror_image_give_mirrored_maps() -> None:
    plain, mirrored, head = _random(1, 4, 3, 5), _random(2, 4, 3, 5), _head()
    one = coarse_maps(plain, mirrored, head, [0, 1])
    other = coarse_maps(mirrored, plain, head, [0, 1])
    assert np.allclose(one, other[:, :, ::-1], atol=1e-6)


def test_without_rounds_the_scales_are_added() -> None:
    small, large = np.abs(_random(3, 2, 2, 3)), np.abs(_random(4, 2, 4, 6))
    found = fine_maps([small, large], _random(5, 7, 4, 6), rounds=0)
    assert np.allclose(found, resize_maps(small, 4, 6) + large, atol=1e-6)


def test_a_peak_spreads_over_similar_cells_alone() -> None:
    features = np.zeros((2, 1, 4), np.float32)
    features[0, 0, :2] = 1
    features[1, 0, 2:] = 1
    peak = np.asarray([[[1, 0, 0, 0]]], np.float32)
    found = fine_maps([peak], features)[0, 0]
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0.4
    assert np.allclose(found[2:], 0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_spreading_neither_adds_nor_leaves_the_range(
    height: int, width: int, classes: int, rounds: int
) -> None:
    maps = np.abs(_random(6, classes, height, width))
    found = fine_maps([maps], _random(7, 5, height, width), rounds=rounds)
    assert found.shape == maps.shape
    if classes:
        assert (found >= maps.min(axis=(1, 2), keepdims=True) - 1e-5).all()
        assert (found <= maps.max(axis=(1, 2), keepdims=True) + 1e-5).all()


@pytest.mark.parametrize("coarse", [[], [np.zeros((1, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32)]])
def test_scales_of_different_classes_are_refused(coarse: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="same classes"):
        fine_maps(coarse, _random(8, 5, 2, 2))
