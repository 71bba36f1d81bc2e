"""Outlines as masks: what pycocotools would crash on is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weaksam_cli.core.masks import decode, tight_boxes
from weaksam_cli.data.outlines import box_mask, polygon_mask, share_mask

SQUARE = [3, 4, 20, 4, 20, 25, 3, 25]


def test_polygons_may_stand_out_and_overlap() -> None:
    counts = polygon_mask([SQUARE, [15, 20, 90, 20, 90, 28, 15, 28]])(30, 40)
    assert tight_boxes([counts], 30, 40).tolist() == [[3, 4, 40, 28]]


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        ([3, 4, 20, 4], "three points"),
        ([3, 4, 20, 4, 20, 25, 3], "three points"),
        ([3, 4, 20, 4, math.nan, 25], "no finite number"),
        ([3, 4, 20, 4, math.inf, 25], "no finite number"),
        ([0, 0, 9e8, 0, 9e8, 9e8], "more than 10,000,000 pixels"),
        ([9e8, 9e8] * 3, "more than 10,000,000 pixels"),
        ([1e300, 0, -1e300, 0, 5, 5], "more than 10,000,000 pixels"),
        ([0, 0, 9e6, 0] * 3, "more than 10,000,000 pixels"),
    ],
)
def test_polygons_that_are_refused(polygon: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        polygon_mask([SQUARE, polygon])(30, 40)


def test_shares_of_the_sides() -> None:
    counts = share_mask([0.25, 0.5, 0.75, 0.5, 0.75, 1.0, 0.25, 1.0])(30, 40)
    assert tight_boxes([counts], 30, 40).tolist() == [[10, 15, 30, 30]]


def test_run_lengths_in_a_box() -> None:
    """Row by row, what is outside first: `.##` over `#..`."""
    (mask,) = decode([box_mask(5, 7, [1, 3, 2], (2, 3))(30, 40)], 30, 40)
    assert np.argwhere(mask).tolist() == [[7, 6], [7, 7], [8, 5]]


@pytest.mark.parametrize(
    ("left", "top", "runs", "size", "reason"),
    [
        (5, 7, [1, 3, 3], (2, 3), "do not cover"),
        (5, 7, [], (2, 3), "do not cover"),
        (5, 7, [-1, 7], (2, 3), "do not cover"),
        (-1, 7, [1, 3, 2], (2, 3), "stands out"),
        (38, 7, [1, 3, 2], (2, 3), "stands out"),
        (5, 7, [1, 10**18 - 1], (10**9, 10**9), "stands out"),
        (5, 7, [1, 5], (-2, -3), "do not cover"),
    ],
)
def test_run_lengths_that_are_refused(
    left: int, top: int, runs: list[int], size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        box_mask(left, top, runs, size)(30, 40)
