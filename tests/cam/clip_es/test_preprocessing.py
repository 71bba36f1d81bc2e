from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.cam.clip_es.preprocessing import DEVIATION, MEAN, input_size, preprocess


def test_sides_are_rounded_up_to_a_multiple_of_16(oracle: Any) -> None:
    for case in oracle("clipes")["input_size"]["cases"]:
        assert list(input_size(case["h"], case["w"])) == case["out"]


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((1500, 1000), 1024, (1024, 688)),
        ((1024, 1024), 1024, (1024, 1024)),
        ((1025, 1), 1024, (1024, 16)),
        ((375, 500), 1024, (384, 512)),
        ((3000, 4000), 480, (368, 480)),
        ((1, 1), 1024, (16, 16)),
    ],
)
def test_large_images_are_shown_smaller(
    size: tuple[int, int], max_side: int, expected: tuple[int, int]
) -> None:
    assert input_size(*size, max_side=max_side) == expected


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(32, 2000), st.sampled_from([14, 16, 32]))
def test_a_size_is_the_least_multiple_that_holds_the_image(h: int, w: int, max_side: int, patch: int) -> None:
    shown = input_size(h, w, patch=patch, max_side=max_side)
    longer = max(h, w)
    for side, result in zip((h, w), shown, strict=True):
        assert result % patch == 0
        assert (result - patch) * longer < side * min(longer, max_side) <= result * longer


def test_one_colour_is_normalised_channel_by_channel() -> None:
    image = np.full((20, 30, 3), (10, 128, 255), np.uint8)
    pixels = preprocess(image, (32, 48))
    assert pixels.shape == (1, 3, 32, 48)
    for channel, value in enumerate((10, 128, 255)):
        wanted = (value / 255 - MEAN[channel]) / DEVIATION[channel]
        assert np.allclose(pixels[0, channel].numpy(), wanted, atol=1e-5)


def test_rows_stay_rows() -> None:
    image = np.zeros((32, 16, 3), np.uint8)
    image[:16] = 255
    pixels = preprocess(image, (64, 16))[0, 0]
    assert pixels[:24].min() > pixels[40:].max()


def test_edges_overshoot_as_bicubic_ones_do() -> None:
    image = np.full((16, 24, 3), 100, np.uint8)
    image[:, 12:] = 150
    red = preprocess(image, (16, 48))[0, 0].numpy() * DEVIATION[0] + MEAN[0]
    assert red.min() * 255 < 99
    assert red.max() * 255 > 151
