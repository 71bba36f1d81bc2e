"""RoI-pooled lite0 features: shape, place and sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.feature_similarity import STRIDE, ImageMaps, image_maps
from torchvision.ops import roi_align

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.models.lite0 import load_lite0


@pytest.fixture(scope="module")
def maps() -> ImageMaps:
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    return image_maps(load_lite0(), image, 96)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_shapes(maps: ImageMaps, n: int) -> None:
    boxes = as_boxes([[index, 0, index + 20, 30] for index in range(n)])
    assert maps.view == (96, 160)
    assert maps.pool("head", boxes).shape == (n, 1280 * 49)
    assert maps.pool("stride16", boxes).shape == (n, 112 * 49)


def test_the_head_is_never_negative_and_the_bottleneck_is(maps: ImageMaps) -> None:
    boxes = as_boxes([[0, 0, 80, 48], [10, 5, 40, 40]])
    assert maps.pool("head", boxes).min() >= 0
    assert maps.pool("stride16", boxes).min() < 0


def test_boxes_are_in_pixels_of_the_image(maps: ImageMaps) -> None:
    boxes = as_boxes([[0, 0, 80, 48], [13, 7, 61, 40]])
    for layer, stride in STRIDE.items():
        in_view = torch.from_numpy(boxes) * 2
        expected = roi_align(maps.maps[layer][None], [in_view], 7, 1 / stride, 2, aligned=True).flatten(1)
        assert maps.pool(layer, boxes) == pytest.approx(expected.numpy(), abs=1e-4)
