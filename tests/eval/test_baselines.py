from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.data.fused_maps import FusedMaps
from weaksam_cli.eval.corloc import (
    CorlocSettings,
    best_contrast_detections,
    box_sums,
    contrast,
    integral_images,
    whole_image_detections,
)


def sample(maps: Any, height: int, width: int) -> FusedMaps:
    stacked = np.asarray(maps, np.float32)
    return FusedMaps(np.arange(len(stacked), dtype=np.int32), stacked, height, width)


def test_the_whole_image() -> None:
    got = whole_image_detections({"a": (30, 40), "b": (5, 6)}, {"a": [2, 0], "b": []})
    assert got["a"].boxes.tolist() == [[0, 0, 40, 30]] * 2
    assert got["a"].class_index.tolist() == [2, 0]
    assert len(got["b"]) == 0


def test_contrast_of_a_bright_square() -> None:
    """A 2 x 2 square of ones in an 8 x 8 map of an image of 80 x 80 pixels; the ring doubles the sides."""
    heat = np.zeros((1, 8, 8))
    heat[0, 3:5, 3:5] = 1
    boxes = as_boxes([[30, 30, 50, 50], [30, 30, 40, 50], [20, 20, 60, 60], [0, 0, 80, 80], [5, 5, 5, 9]])
    got = contrast(boxes, sample(heat, 80, 80), ring_factor=2)
    # The half square: its ring holds three quarters of a cell column beyond it, 1 of 4 + 2 cells is bright.
    assert got[0] == pytest.approx([1, 1 - 1 / 6, 1 / 4, 0, -np.inf], abs=1e-6)


def test_the_best_proposal_of_every_class() -> None:
    heat = np.zeros((2, 4, 8))
    heat[0, :, :4] = 1
    heat[1, :2, 6:] = 1
    boxes = as_boxes([[0, 0, 80, 40], [0, 0, 40, 40], [60, 0, 80, 20]])
    got = best_contrast_detections({"a": boxes}, {"a": sample(heat, 40, 80), "b": sample(heat, 40, 80)}, 1.8)
    assert got["a"].boxes.tolist() == [[0, 0, 40, 40], [60, 0, 80, 20]]
    assert got["a"].class_index.tolist() == [0, 1]
    assert len(got["b"]) == 0


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_any_number_of_proposals(n: int) -> None:
    boxes = as_boxes([[i, i, i + 5, i + 5] for i in range(n)])
    got = best_contrast_detections({"a": boxes}, {"a": sample(np.ones((2, 3, 3)), 20, 20)}, 1.8)
    assert len(got["a"]) == (2 if n else 0)


def test_proposals_without_area_are_no_detections() -> None:
    got = best_contrast_detections(
        {"a": as_boxes([[5, 5, 5, 5]])}, {"a": sample(np.ones((1, 3, 3)), 20, 20)}, 1.8
    )
    assert len(got["a"]) == 0


def test_a_ring_must_be_larger_than_the_box() -> None:
    with pytest.raises(ValidationError, match="greater than 1"):
        CorlocSettings(ring_factor=1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.integers(1, 4))
def test_box_sums_equal_sums_over_pixels(seed: int, factor: int) -> None:
    """Boxes at fractions of cells: the same as whole pixels of the map enlarged by that fraction."""
    rng = np.random.default_rng(seed)
    maps = rng.random((2, 3, 5))
    enlarged = maps.repeat(factor, axis=1).repeat(factor, axis=2)
    x = np.sort(rng.integers(0, 5 * factor + 1, 2))
    y = np.sort(rng.integers(0, 3 * factor + 1, 2))
    sums, areas = box_sums(integral_images(maps), np.asarray([[x[0], y[0], x[1], y[1]]]) / factor)
    expected = enlarged[:, y[0] : y[1], x[0] : x[1]].sum(axis=(1, 2)) / factor**2
    np.testing.assert_allclose(sums[:, 0], expected, atol=1e-9)
    assert areas[0] == pytest.approx((x[1] - x[0]) * (y[1] - y[0]) / factor**2)
