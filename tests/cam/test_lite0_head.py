from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.cam.lite0_head import LinearHead, fit_linear_head


def _separable(n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.random((n, classes)) < 0.4
    features = generator.normal(scale=0.1, size=(n, 8)).astype(np.float32)
    features[:, :classes] += labels
    features[:, 7] = 5  # a feature that says nothing
    return features, labels


def test_separable_labels_are_learnt() -> None:
    features, labels = _separable()
    head = fit_linear_head(features, labels, penalty=1e-4)
    assert ((head.probabilities(features) > 0.5) == labels).all()


def test_the_fit_has_no_randomness() -> None:
    features, labels = _separable()
    first, second = fit_linear_head(features, labels), fit_linear_head(features, labels)
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.bias, second.bias)


def test_the_gradient_vanishes_at_the_solution() -> None:
    features, labels = _separable()
    penalty = 0.01
    head = fit_linear_head(features, labels, penalty=penalty, iterations=300)
    deviation = features.std(axis=0) + 1e-3
    residual = (head.probabilities(features) - labels) / len(features)
    standard = (features - features.mean(axis=0)) / deviation
    gradient = residual.T @ standard + 2 * penalty * head.weight * deviation
    assert np.abs(gradient).max() < 1e-3
    assert np.abs(residual.sum(axis=0)).max() < 1e-3


def test_the_scale_of_a_feature_does_not_matter() -> None:
    features, labels = _separable()
    scaled = features * np.asarray([10, 1, 1, 1, 1, 1, 1, 1], np.float32)
    plain, stretched = fit_linear_head(features, labels), fit_linear_head(scaled, labels)
    assert np.allclose(plain.logits(features), stretched.logits(scaled), atol=0.05)


@pytest.mark.parametrize("present", [False, True])
def test_a_class_that_is_always_or_never_there_stays_finite(present: bool) -> None:
    features, labels = _separable()
    labels[:, 1] = present
    head = fit_linear_head(features, labels)
    assert np.isfinite(head.weight).all()
    assert ((head.probabilities(features)[:, 1] > 0.5) == present).all()


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_are_enough_to_run(n: int) -> None:
    features, labels = _separable()
    head = fit_linear_head(features[:n], labels[:n])
    assert np.isfinite(head.logits(features)).all()


@pytest.mark.parametrize(
    ("features", "labels"),
    [((0, 4), (0, 2)), ((3, 4), (2, 2)), ((4,), (4, 1)), ((3, 4), (3,))],
)
def test_shapes_that_do_not_fit_are_refused(features: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        fit_linear_head(np.zeros(features, np.float32), np.zeros(labels, bool))


def test_a_head_checks_its_shapes() -> None:
    with pytest.raises(ValueError, match="bias"):
        LinearHead(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))
