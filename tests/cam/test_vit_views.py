from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from weaksam_cli.cam.vit_views import DEVIATION, MEAN, make_views


def sample(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "scales", "max_side", "expected"),
    [
        ((375, 500), (1.0, 0.8, 1.2), 1024, [(375, 500), (300, 400), (450, 600)]),
        ((375, 333), (0.5, 1.5), 1024, [(188, 166), (562, 500)]),  # 187.5 -> 188, 166.5 -> 166, 562.5 -> 562, 499.5 -> 500
        ((2000, 1000), (1.0, 0.5), 1000, [(1000, 500), (500, 250)]),
        ((1000, 1), (1.0,), 100, [(100, 16)]),  # never less than a patch
        ((3, 5), (1.0, 0.8), 1024, [(16, 16), (16, 16)]),
    ],
)  # fmt: skip
def test_sizes(
    size: tuple[int, int], scales: tuple[float, ...], max_side: int, expected: list[tuple[int, int]]
) -> None:
    views = make_views(sample(*size), scales, max_side=max_side, patch=16)
    assert views.image_size == size
    assert [item.shape for item in views.pixels] == [(3, *each) for each in expected]


def test_pixels_are_resized_by_pillow_and_normalised() -> None:
    image = sample(40, 60)
    same, smaller = make_views(image, (1.0, 0.8), max_side=1024, patch=16).pixels
    assert same.dtype == np.float32
    assert same.flags.c_contiguous
    np.testing.assert_allclose(same[1, 3, 5], (image[3, 5, 1] / 255 - 0.456) / 0.224, rtol=1e-5)
    resized = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(smaller.transpose(1, 2, 0) * DEVIATION + MEAN, resized / 255, atol=1e-6)
