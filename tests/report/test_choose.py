"""Which boxes and images are shown, and the charts' arithmetic: tables and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.report import choose, figures

SCORES = st.dictionaries(
    st.text("abc", min_size=1), st.lists(st.floats(0, 1, width=32), max_size=5), max_size=5
)


def detections(boxes: list[list[float]], classes: list[int], scores: list[float]) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int32),
        np.asarray(scores, np.float32),
    )


def of_scores(scores: list[float]) -> Detections:
    return detections([[0, 0, 9, 9]] * len(scores), [0] * len(scores), scores)


@given(SCORES, st.floats(0, 6))
def test_a_rank_admits_as_many_boxes_an_image_as_it_says(scores: dict[str, list[float]], most: float) -> None:
    found = {key: of_scores(values) for key, values in scores.items()}
    kept = choose.shown(found, most)
    count, total = sum(map(len, kept.values())), sum(map(len, found.values()))
    assert list(kept) == list(found)
    assert (
        count == min(total, int(np.ceil(np.float64(most) * len(found))))
        or abs(count - most * len(found)) <= 1
    )
    left = [score for key, item in found.items() for score in item.scores]
    assert (
        sorted((score for item in kept.values() for score in item.scores), reverse=True)
        == sorted(left)[::-1][:count]
    )


OBJECT, OTHER, HARD = [0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]
TRUTH = GroundTruth(
    np.asarray([OBJECT, OTHER, HARD], np.float32),
    np.asarray([0, 1, 0], np.int32),
    np.asarray([False, False, True]),
)


@pytest.mark.parametrize(
    ("boxes", "classes", "counts"),
    [
        ([], [], (0, 2, 0)),
        ([OBJECT, OTHER], [0, 1], (2, 2, 2)),
        ([OBJECT, OBJECT], [0, 0], (1, 2, 2)),  # a second box on an object is one too many
        ([OBJECT, OTHER], [1, 0], (0, 2, 2)),  # of another class
        ([HARD, OBJECT], [0, 0], (1, 2, 1)),  # difficult objects do not count
        ([[0, 0, 10, 5], [0, 0, 10, 4]], [0, 0], (1, 2, 2)),  # an IoU of .5 is enough
    ],
)
def test_objects_that_are_found(
    boxes: list[list[float]], classes: list[int], counts: tuple[int, int, int]
) -> None:
    scores = [0.9 - 0.1 * number for number in range(len(boxes))]
    assert choose.found_objects(TRUTH, detections(boxes, classes, scores)) == counts


def test_agreement() -> None:
    assert choose.agreement(0, 0, 0) == 1 and choose.agreement(2, 2, 2) == 1
    assert choose.agreement(1, 2, 2) == 0.5 and choose.agreement(0, 2, 0) == 0


def test_equal_values_are_in_the_order_of_the_keys() -> None:
    assert choose.first_by({"b": 1.0, "a": 1.0, "c": 0.5}, 2) == ["c", "a"]
    assert choose.first_by({"b": 1.0, "a": 1.0, "c": 0.5}, 2, highest=True) == ["a", "b"]


@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_at_or_above_its_highest_value(value: float) -> None:
    assert value * 0.999 <= figures.nice(value) <= 2.01 * value


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_axis_without_values(value: float) -> None:
    assert figures.nice(value) == 1


def test_charts_of_little() -> None:
    nothing = figures.Series("<a>", [1, 2], [None, None])
    point = figures.Series("<b>", [5], [3])
    for log in (False, True):
        assert figures.line_chart([nothing], "t", "x", "y", log=log) == ""
        chart = figures.line_chart([nothing, point], "t", "x", "y", log=log)
        assert "&lt;b&gt;" in chart and "nan" not in chart and "inf" not in chart
    assert figures.bar_chart(["1"], [nothing], "t", "x", "y") == ""
