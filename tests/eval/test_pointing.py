"""The pointing game: peaks in boxes, what chance gets, and which lines the peaks get in the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exchange.helpers import labels
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.errors import UserError
from weaksam_cli.eval.case import Case
from weaksam_cli.eval.pointing import (
    any_pixel_inside_any,
    chance_inside,
    chance_metrics,
    peak_metrics,
    peaks_inside,
    unclassed_inside,
)

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
    got = peaks_inside(TRUTH, found, CLASSES, only_best=True)
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


def test_points_of_unknown_images_are_refused() -> None:
    with pytest.raises(UserError, match="points: 1 images"):
        peaks_inside({}, {"a": Points.empty()}, CLASSES, only_best=True)


def drawn(*objects: tuple[int, list[float]]) -> GroundTruth:
    return GroundTruth(
        np.asarray([box for _, box in objects], np.float32).reshape(-1, 4),
        np.asarray([index for index, _ in objects], np.int32),
        np.zeros(len(objects), bool),
    )


IMAGES = {
    # two cats that overlap: 60 + 60 - 20 of 200 pixels; the centre, column 10 and row 5, lies below both
    "a": drawn((0, [0, 0, 12, 5]), (0, [8, 0, 20, 5])),
    # a cat on the left half, a dog in the middle
    "b": drawn((0, [0, 0, 10, 10]), (1, [8, 4, 12, 6])),
    "empty": drawn(),
}
SIZES = {"a": (10, 20), "b": (10, 20), "empty": (5, 5)}


def test_any_pixel_and_the_centre() -> None:
    pixels, centres = chance_inside(IMAGES, SIZES, CLASSES)
    assert pixels.values == pytest.approx({"cat": (100 / 200 + 100 / 200) / 2, "dog": 8 / 200})
    assert centres.values == {"cat": 0.0, "dog": 1.0}


def test_any_pixel_and_any_class() -> None:
    """In b the dog adds the columns that the cat leaves; an image without objects counts for nothing."""
    assert any_pixel_inside_any(IMAGES, SIZES) == pytest.approx((100 / 200 + 104 / 200) / 2)
    assert any_pixel_inside_any({"empty": IMAGES["empty"]}, SIZES) is None


def test_without_objects_nothing_is_known() -> None:
    for metric in chance_inside({"empty": drawn()}, SIZES, CLASSES):
        assert np.isnan(metric.mean)


CATS = {"a": GroundTruth(np.asarray([[0, 0, 5, 10]], np.float32), np.zeros(1, np.int32), np.zeros(1, bool))}


def cats_case() -> Case:
    """An image of 10 x 10 pixels with a cat on its left half."""
    split = labels({"a": 1}, classes=1)
    image = split.file.images[0].model_copy(update={"height": 10, "width": 10})
    file = split.file.model_copy(update={"images": [image]})
    return Case("prompt", "", Path("points.h5"), replace(split, file=file), CATS, "voc", {})


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
    found = peak_metrics(cats_case(), "cross", {"a": points([[x, 1] for x in columns], classes, [1.0] * n)})
    assert {item.name: item.value for item in found} == expected


@pytest.mark.parametrize("unclassed", [False, True])
def test_they_have_a_baseline_of_their_own(unclassed: bool) -> None:
    found = chance_metrics(cats_case(), unclassed=unclassed)
    assert {item.stage for item in found} == {"baseline"}
    values = {item.name: item.value for item in found}
    assert values.get("peak inside a box of any class: any pixel") == (0.5 if unclassed else None)
