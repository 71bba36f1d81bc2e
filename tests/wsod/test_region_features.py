"""RoI features: pooling inside and around, the probability grid, principal components."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weaksam_cli.wsod.region_features import (
    enlarged,
    fit_components,
    pooled_features,
    probability_grid,
)


def test_enlarged_about_the_centre() -> None:
    boxes = np.asarray([[2, 4, 6, 8]], np.float32)
    np.testing.assert_array_equal(enlarged(boxes, 2), [[0, 2, 8, 10]])


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_constant_features_have_no_contrast(n: int) -> None:
    boxes = np.tile(np.asarray([[10, 10, 60, 50]], np.float32), (n, 1))
    found = pooled_features(torch.ones(1280, 4, 5), boxes, (128, 160), (128, 160), 1.6)
    assert found.shape == (n, 2560)
    if n:
        assert torch.allclose(found[:, :1280], torch.tensor(1.0))
        assert torch.allclose(found[:, 1280:], torch.tensor(0.0), atol=1e-6)


def test_a_bright_box_stands_out() -> None:
    features = torch.zeros(1280, 8, 8)
    features[:, 2:5, 2:5] = 1
    boxes = np.asarray([[64, 64, 160, 160], [0, 0, 256, 256]], np.float32)
    inside, contrast = pooled_features(features, boxes, (256, 256), (256, 256), 1.6).split(1280, dim=1)
    assert inside[0].mean() > 3 * inside[1].mean()
    assert contrast[0].mean() > 0.2
    assert contrast[1].abs().mean() < 0.02


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_grid_shows_what_is_inside_and_around(n: int) -> None:
    probabilities = torch.zeros(3, 10, 10)
    probabilities[1, 3:7, 3:7] = 1
    boxes = np.tile(np.asarray([[30, 30, 70, 70]], np.float32), (n, 1))
    grid = probability_grid(probabilities, boxes, (100, 100), 5, 5 / 3).reshape(n, 3, 5, 5)
    assert grid.shape == (n, 3, 5, 5)
    if n:
        assert grid[0, 1, 2, 2] == 1
        assert grid[0, 1, 0].max() < 0.5
        assert grid[0, 0].sum() == 0


def test_outside_the_image_is_empty() -> None:
    grid = probability_grid(torch.ones(1, 4, 4), np.asarray([[0, 0, 40, 40]], np.float32), (40, 40), 5, 2.0)
    corners = grid.reshape(5, 5)[[0, 0, 4, 4], [0, 4, 0, 4]]
    assert (corners < 0.3).all()
    assert grid.reshape(5, 5)[2, 2] == 1


def test_components_are_whitened_and_deterministic() -> None:
    generator = np.random.default_rng(0)
    sample = generator.normal(size=(500, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 7
    basis = fit_components(sample, 3)
    projected = basis.project(torch.from_numpy(sample.astype(np.float32))).numpy()
    assert projected.shape == (500, 3)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-3)
    assert np.abs(np.corrcoef(projected.T) - np.eye(3)).max() < 1e-3
    assert torch.equal(basis.components, fit_components(sample, 3).components)
