from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.errors import UserError
from weaksam_cli.eval.class_maps import ClassMaps
from weaksam_cli.eval.peaks_inside import energy_inside, peaks_inside, unclassed_inside

CLASSES = ["cat", "dog"]


def objects(boxes: Any, classes: Any) -> GroundTruth:
    return GroundTruth(as_boxes(boxes), np.asarray(classes, np.int32), np.zeros(len(classes), bool))


def points(xy: Any, classes: Any, values: Any) -> Points:
    n = len(classes)
    return Points(
        np.asarray(xy, np.int32).reshape(n, 2),
        np.asarray(classes, np.int32),
        np.asarray(values, np.float32),
        np.zeros(n, np.int16),
    )


TRUTH = {"a": objects([[10, 10, 20, 20], [30, 30, 40, 40]], [0, 1]), "b": objects([], [])}


def test_the_pointing_game_takes_the_best_point_of_a_class() -> None:
    found = {"a": points([[10, 19], [20, 15], [15, 15]], [0, 0, 1], [1.0, 0.95, 1.0])}
    got = peaks_inside(TRUTH, found, CLASSES)
    assert got.values == {"cat": 1, "dog": 0}
    assert got.support == {"cat": 1, "dog": 1}


def test_all_points() -> None:
    found = {"a": points([[10, 19], [20, 15], [35, 35], [0, 0]], [0, 0, 1, -1], [1.0, 0.95, 1.0, 1.0])}
    got = peaks_inside(TRUTH, found, CLASSES, only_best=False)
    assert got.values == {"cat": 0.5, "dog": 1}
    assert got.mean == 0.75


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("only_best", [False, True])
def test_any_number_of_points(n: int, only_best: bool) -> None:
    found = {"a": points([[12, 12]] * n, [0] * n, [1.0] * n), "b": points([[1, 1]], [-1], [1.0])}
    got = peaks_inside(TRUTH, found, CLASSES, only_best=only_best)
    assert got.support["cat"] == (min(n, 1) if only_best else n)
    assert got.values["cat"] == pytest.approx(1 if n else np.nan, nan_ok=True)


@pytest.mark.parametrize(
    ("places", "classes", "expected"),
    [
        ([], [], (0, 0)),
        ([[15, 15]], [0], (0, 0)),
        ([[15, 15]], [-1], (1, 1)),
        ([[35, 35], [20, 20]], [-1, -1], (1, 2)),
        ([[10, 10], [19, 19], [20, 15], [15, 9], [39, 30], [40, 30]], [-1] * 6, (3, 6)),
        ([[15, 15]] * 7, [-1, 0, -1, 0, -1, 1, -1], (4, 4)),
    ],
)
def test_a_point_without_a_class_may_lie_in_any_box(
    places: Any, classes: Any, expected: tuple[int, int]
) -> None:
    assert unclassed_inside(TRUTH, {"a": points(places, classes, [1.0] * len(classes))}) == expected


def test_without_objects_no_point_is_inside() -> None:
    assert unclassed_inside(TRUTH, {"b": points([[15, 15]], [-1], [1.0])}) == (0, 1)


def test_energy_at_low_resolution() -> None:
    """Cells of 10 x 10 pixels; the box covers one and a half of the two bright ones."""
    heat = np.asarray([[[0, 2, 0], [0, 2, 0]], [[0, 0, 0], [0, 0, -1]]], np.float32)
    truth = {"a": objects([[10, 0, 20, 15], [10, 5, 20, 15], [0, 0, 30, 20]], [0, 0, 1])}
    maps = {"a": ClassMaps(np.asarray([0, 1], np.int32), heat, 20, 30)}
    got = energy_inside(truth, maps, CLASSES)
    assert got.values == pytest.approx({"cat": 0.75, "dog": 0})
    assert got.support == {"cat": 1, "dog": 1}


def test_energy_at_full_resolution_is_a_sum_over_pixels() -> None:
    heat = np.random.default_rng(0).random((1, 20, 30)).astype(np.float32)
    truth = {"a": objects([[5, 3, 17, 11]], [1])}
    got = energy_inside(truth, {"a": ClassMaps(np.asarray([1], np.int32), heat, 20, 30)}, CLASSES)
    assert got.values["dog"] == pytest.approx(heat[0, 3:11, 5:17].sum() / heat.sum(), rel=1e-6)
    assert np.isnan(got.values["cat"])


def test_boxes_may_reach_past_the_image() -> None:
    heat = np.ones((1, 2, 2), np.float32)
    truth = {"a": objects([[-5, -5, 10, 5]], [0])}
    got = energy_inside(truth, {"a": ClassMaps(np.asarray([0], np.int32), heat, 10, 10)}, CLASSES)
    assert got.values["cat"] == pytest.approx(0.5)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="points: 1 images"):
        peaks_inside({}, {"a": Points.empty()}, CLASSES)
    with pytest.raises(UserError, match="maps: 1 images"):
        energy_inside(
            {}, {"a": ClassMaps(np.zeros(1, np.int32), np.ones((1, 2, 2), np.float32), 2, 2)}, CLASSES
        )
    with pytest.raises(ValueError, match="points: expected classes 0 to 1"):
        peaks_inside(TRUTH, {"a": points([[0, 0]], [2], [1])}, CLASSES)
