"""Outlines as masks: what pycocotools would crash on is refused."""

from __future__ import annotations

import math

import pytest

from weaksam_cli.core.masks import tight_boxes
from weaksam_cli.data.outlines import polygon_mask

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
