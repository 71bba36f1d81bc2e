"""The feature model: cells are sampled, folds are fair, classifiers and components are fitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weaksam_cli.wsod.feature_model import (
    CELL_CHANNELS,
    DenseClassifier,
    describe_cells,
    fit_components,
    fit_dense,
    fold_of,
    sample_cells,
)
from weaksam_cli.wsod.lite0_settings import DenseSettings

SETTINGS = DenseSettings(cells=20, epochs=40, hidden=16, dropout=0.0)


def test_descriptors_join_both_maps_at_the_finer_grid() -> None:
    cells = describe_cells(torch.ones(112, 6, 8), torch.full((320, 3, 4), 2.0))
    assert cells.shape == (CELL_CHANNELS, 6, 8)
    assert (cells[:112] == 1).all()
    assert torch.allclose(cells[112:], torch.tensor(2.0))


def test_cells_are_drawn_from_strong_and_weak_places() -> None:
    cells = np.arange(CELL_CHANNELS * 12, dtype=np.float32).reshape(CELL_CHANNELS, 3, 4)
    maps = np.zeros((2, 3, 4), np.float32)
    maps[0, 0], maps[1, 1], maps[1, 2, :2] = 0.9, 0.8, 0.3
    chosen, labels = sample_cells(cells, maps, [4, 7], SETTINGS, np.random.default_rng(0))
    flat = cells.reshape(CELL_CHANNELS, -1).T
    where = [int(np.flatnonzero((flat == row).all(axis=1))[0]) for row in chosen]
    expected = {0: 5, 1: 5, 2: 5, 3: 5, 4: 8, 5: 8, 6: 8, 7: 8, 10: 0, 11: 0}
    assert dict(zip(where, labels.tolist(), strict=True)) == expected


@pytest.mark.parametrize("maps", [np.zeros((0, 2, 2), np.float32), np.full((1, 2, 2), 0.4, np.float32)])
def test_an_image_without_clear_cells_gives_none(maps: np.ndarray) -> None:
    cells = np.zeros((CELL_CHANNELS, 2, 2), np.float32)
    chosen, labels = sample_cells(cells, maps, list(range(len(maps))), SETTINGS, np.random.default_rng(0))
    assert chosen.shape == (0, CELL_CHANNELS)
    assert len(labels) == 0


def test_folds_are_stable_and_balanced() -> None:
    folds = [fold_of(f"{number:06d}", 3) for number in range(3000)]
    assert folds[:6] == [fold_of(f"{number:06d}", 3) for number in range(6)]
    assert min(np.bincount(folds)) > 900


def _separable(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, n)
    cells = generator.normal(size=(n, CELL_CHANNELS)).astype(np.float32)
    cells[:, :3] += 6 * np.eye(3, dtype=np.float32)[labels]
    return cells, labels.astype(np.int64)


def test_it_learns_is_deterministic_and_survives_a_file() -> None:
    cells, labels = _separable(600)
    first, second = (fit_dense(cells, labels, 2, SETTINGS, seed=3) for _ in range(2))
    sample = torch.from_numpy(cells.T.reshape(CELL_CHANNELS, 20, 30))
    logits = first.logits(sample)
    assert (logits.argmax(dim=0).flatten().numpy() == labels).mean() > 0.95
    assert torch.equal(logits, second.logits(sample))
    assert torch.equal(logits, DenseClassifier.from_state(first.state_dict()).logits(sample))


def test_components_are_whitened_and_deterministic() -> None:
    generator = np.random.default_rng(0)
    sample = generator.normal(size=(500, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 7
    found = fit_components(sample, 3)
    projected = found.project(torch.from_numpy(sample.astype(np.float32))).numpy()
    assert projected.shape == (500, 3)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-3)
    assert np.abs(np.corrcoef(projected.T) - np.eye(3)).max() < 1e-3
    assert torch.equal(found.components, fit_components(sample, 3).components)
