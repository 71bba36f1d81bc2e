"""Which lines the peaks get in the table."""

from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.eval.measures import measure_pointing_chance, measure_points

TRUTH = {"a": GroundTruth(np.asarray([[0, 0, 5, 10]], np.float32), np.zeros(1, np.int32), np.zeros(1, bool))}
BEST, ALL = "cross: best peak inside a box", "cross: all peaks inside a box"
UNCLASSED, COUNT = "cross: peak inside a box of any class", "cross: peaks an image"


@pytest.mark.parametrize(
    ("columns", "classes", "expected"),
    [
        ([], [], {}),
        ([2], [0], {BEST: 1.0, ALL: 1.0, COUNT: 1.0}),
        ([2, 7], [-1, -1], {UNCLASSED: 0.5, COUNT: 2.0}),
        ([2, 7, 7], [-1, 0, -1], {BEST: 0.0, ALL: 0.0, UNCLASSED: 0.5, COUNT: 3.0}),
    ],
)
def test_peaks_without_a_class_have_a_line_of_their_own(
    columns: list[int], classes: list[int], expected: dict[str, float]
) -> None:
    n = len(columns)
    points = Points(
        np.asarray([[x, 1] for x in columns], np.int32).reshape(n, 2),
        np.asarray(classes, np.int32),
        np.ones(n, np.float32),
        np.zeros(n, np.int16),
    )
    found = measure_points(TRUTH, {"cross": {"a": points}}, ["cat"], "")
    assert {item.name: item.value for item in found} == expected


@pytest.mark.parametrize("unclassed", [False, True])
def test_they_have_a_baseline_of_their_own(unclassed: bool) -> None:
    found = measure_pointing_chance(TRUTH, {"a": (10, 10)}, ["cat"], unclassed=unclassed)
    values = {item.name: item.value for item in found}
    assert values.get("peak inside a box of any class: any pixel") == (0.5 if unclassed else None)
