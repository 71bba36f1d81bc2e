"""Sizes of resized images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.detectron.resize import resize, resized_shape


@pytest.mark.parametrize(
    ("height", "width", "short", "largest", "expected"),
    [
        (240, 320, 256, 640, (256, 341)),
        (320, 240, 256, 640, (341, 256)),
        (100, 1000, 256, 640, (64, 640)),
        (256, 256, 256, 256, (256, 256)),
        (1, 1000, 256, 100, (1, 100)),
    ],
)
def test_resized_shape(height: int, width: int, short: int, largest: int, expected: tuple[int, int]) -> None:
    assert resized_shape(height, width, short, largest) == expected


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_resized_shape_equals_detectron2(height: int, width: int) -> None:
    import_detectron2()
    from detectron2.data.transforms import ResizeShortestEdge

    met = resized_shape(height, width, 256, 640)
    transform = ResizeShortestEdge(256, 640).get_transform(np.zeros((height, width, 3), np.uint8))
    assert np.abs(np.subtract(met, (max(transform.new_h, 1), max(transform.new_w, 1)))).max() <= 1


def test_resize_keeps_a_image_of_the_right_size() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    assert resize(image, 20, 30) is image
    assert resize(image, 10, 15).shape == (10, 15, 3)
