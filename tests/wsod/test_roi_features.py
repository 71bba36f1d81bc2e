"""RoI features: pooling inside and around, the probability grid, what is sampled, class maps as a prior over proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.wsod.feature_model import CELL_CHANNELS
from weaksam_cli.wsod.lite0 import SamplePredictor, Sources
from weaksam_cli.wsod.lite0_settings import DenseSettings, FeatureSettings, RoiSettings
from weaksam_cli.wsod.roi_features import (
    ImageMaps,
    component_box,
    component_prior,
    enlarged,
    pooled_features,
    probability_grid,
)
from weaksam_cli.wsod.settings import ProposalSettings


def maps_of(last: torch.Tensor, height: int, width: int) -> ImageMaps:
    cells = torch.zeros(CELL_CHANNELS, 16, 16)
    return ImageMaps(last, cells, (height, width), (height, width))


def test_enlarged_about_the_centre() -> None:
    boxes = np.asarray([[2, 4, 6, 8]], np.float32)
    np.testing.assert_array_equal(enlarged(boxes, 2), [[0, 2, 8, 10]])


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_constant_features_have_no_contrast(n: int) -> None:
    boxes = np.tile(np.asarray([[10, 10, 60, 50]], np.float32), (n, 1))
    found = pooled_features(maps_of(torch.ones(1280, 4, 5), 128, 160), boxes, 1.6)
    assert found.shape == (n, 2560)
    if n:
        assert torch.allclose(found[:, :1280], torch.tensor(1.0))
        assert torch.allclose(found[:, 1280:], torch.tensor(0.0), atol=1e-6)


def test_a_bright_box_stands_out() -> None:
    features = torch.zeros(1280, 8, 8)
    features[:, 2:5, 2:5] = 1
    boxes = np.asarray([[64, 64, 160, 160], [0, 0, 256, 256]], np.float32)
    inside, contrast = pooled_features(maps_of(features, 256, 256), boxes, 1.6).split(1280, dim=1)
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


@dataclass(frozen=True)
class AlwaysTheSame:
    """Sources whose every image has the same maps and proposals."""

    def open(self, _: FeatureSettings) -> Callable[[str], tuple[ImageMaps, ClassMaps, np.ndarray]]:
        maps = maps_of(torch.arange(64.0).reshape(1, 8, 8).expand(1280, 8, 8), 256, 256)
        class_maps = ClassMaps(
            np.asarray([0], np.int32),
            np.asarray([KINDS.index("fine")], np.int8),
            np.zeros(1, np.int16),
            np.ones(1, np.float32),
            (np.eye(16, dtype=np.float32),),
            (256, 256),
            np.ones(1, np.float32),
        )
        left = np.arange(0, 200, 4, dtype=np.float32)
        boxes = np.stack([left, left, left + 50, left + 50], axis=1)
        return lambda _: (maps, class_maps, boxes)


def drawn(key: str, seed: int = 0) -> list[float]:
    """The pooled features of the RoIs that are drawn; every image is the same but for its key."""
    settings = FeatureSettings(
        proposals=ProposalSettings(), dense=DenseSettings(cells=4), features=RoiSettings(samples=4)
    )
    predictor = SamplePredictor(settings, cast(Sources, AlwaysTheSame()), seed)
    (pooled,) = predictor.open()(key).blobs["pooled"]  # type: ignore[union-attr]
    assert pooled.shape == (4, 2560)
    return [float(value) for value in pooled[:, 0]]


def test_images_whose_names_end_alike_draw_differently() -> None:
    keys = ["2008_000021.jpg", "2009_000021.jpg", "a/2009_000021.jpg", "b/2009_000021.jpg"]
    assert len({tuple(drawn(key)) for key in keys}) == len(keys)
    assert drawn(keys[0]) == drawn(keys[0]) != drawn(keys[0], seed=1)


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
