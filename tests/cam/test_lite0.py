from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.cam.lite0 import (
    FineSettings,
    LinearHead,
    coarse_maps,
    fine_maps,
    fit_linear_head,
)
from weaksam_cli.core.maps import resize_bilinear


def fitted(
    features: np.ndarray, labels: np.ndarray, *, penalty: float = 5e-3, iterations: int = 60
) -> LinearHead:
    return fit_linear_head(features, labels, penalty=penalty, iterations=iterations)


def _separable(n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.random((n, classes)) < 0.4
    features = generator.normal(scale=0.1, size=(n, 8)).astype(np.float32)
    features[:, :classes] += labels
    features[:, 7] = 5  # a feature that says nothing
    return features, labels


def test_separable_labels_are_learnt() -> None:
    features, labels = _separable()
    head = fitted(features, labels, penalty=1e-4)
    assert ((head.probabilities(features) > 0.5) == labels).all()


def test_the_fit_has_no_randomness() -> None:
    features, labels = _separable()
    first, second = fitted(features, labels), fitted(features, labels)
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.bias, second.bias)


def test_the_gradient_vanishes_at_the_solution() -> None:
    features, labels = _separable()
    penalty = 0.01
    head = fitted(features, labels, penalty=penalty, iterations=300)
    deviation = features.std(axis=0) + 1e-3
    residual = (head.probabilities(features) - labels) / len(features)
    standard = (features - features.mean(axis=0)) / deviation
    gradient = residual.T @ standard + 2 * penalty * head.weight * deviation
    assert np.abs(gradient).max() < 1e-3
    assert np.abs(residual.sum(axis=0)).max() < 1e-3


def test_the_scale_of_a_feature_does_not_matter() -> None:
    features, labels = _separable()
    scaled = features * np.asarray([10, 1, 1, 1, 1, 1, 1, 1], np.float32)
    plain, stretched = fitted(features, labels), fitted(scaled, labels)
    assert np.allclose(plain.logits(features), stretched.logits(scaled), atol=0.05)


@pytest.mark.parametrize("present", [False, True])
def test_a_class_that_is_always_or_never_there_stays_finite(present: bool) -> None:
    features, labels = _separable()
    labels[:, 1] = present
    head = fitted(features, labels)
    assert np.isfinite(head.weight).all()
    assert ((head.probabilities(features)[:, 1] > 0.5) == present).all()


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_are_enough_to_run(n: int) -> None:
    features, labels = _separable()
    head = fitted(features[:n], labels[:n])
    assert np.isfinite(head.logits(features)).all()


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _head(classes: int = 3, channels: int = 4) -> LinearHead:
    return LinearHead(_random(9, classes, channels), np.zeros(classes, np.float32))


@pytest.mark.parametrize("classes", [[], [0], [2, 0]])
def test_a_map_is_the_head_at_every_cell_without_bias_and_without_negatives(classes: list[int]) -> None:
    features, head = _random(0, 4, 2, 3), _head()
    found = coarse_maps(features, features[:, :, ::-1], head, classes)
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
    found = fine_maps([small, large], _random(5, 7, 4, 6), FineSettings(rounds=0))
    assert np.allclose(found, resize_bilinear(small, 4, 6) + large, atol=1e-6)


def test_a_peak_spreads_over_similar_cells_alone() -> None:
    features = np.zeros((2, 1, 4), np.float32)
    features[0, 0, :2] = 1
    features[1, 0, 2:] = 1
    peak = np.asarray([[[1, 0, 0, 0]]], np.float32)
    found = fine_maps([peak], features, FineSettings())[0, 0]
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0.4
    assert np.allclose(found[2:], 0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_spreading_neither_adds_nor_leaves_the_range(
    height: int, width: int, classes: int, rounds: int
) -> None:
    maps = np.abs(_random(6, classes, height, width))
    found = fine_maps([maps], _random(7, 5, height, width), FineSettings(rounds=rounds))
    assert found.shape == maps.shape
    if classes:
        assert (found >= maps.min(axis=(1, 2), keepdims=True) - 1e-5).all()
        assert (found <= maps.max(axis=(1, 2), keepdims=True) + 1e-5).all()
