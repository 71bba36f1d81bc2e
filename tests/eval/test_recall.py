"""Recall against the number of proposals: order, budgets, and that more proposals never find fewer objects."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import as_boxes, inclusive_to_edges, voc_to_edges
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval import recall
from weaksam_cli.eval.matching import PIXEL_EDGES
from weaksam_cli.eval.recall import (
    PUBLISHED_VOC,
    RecallCurve,
    RecallSettings,
    best_first,
    convention_of,
    greedy_one_to_one,
)

THRESHOLDS = (0.5, 0.75, 0.9)


def recall_curve(
    truth: Any, proposals: Any, budgets: Any = (None,), convention: Any = PIXEL_EDGES, **settings: Any
) -> RecallCurve:
    return recall.recall_curve(truth, proposals, budgets, RecallSettings(**settings), convention)


def objects(boxes: Any, difficult: Any = None) -> GroundTruth:
    n = len(boxes)
    flags = np.zeros(n, bool) if difficult is None else np.asarray(difficult, bool)
    return GroundTruth(as_boxes(boxes), np.zeros(n, np.int32), flags)


def squares(*starts: int) -> list[list[int]]:
    """Boxes of 10 x 10 pixels that begin at these columns."""
    return [[start, 0, start + 10, 10] for start in starts]


@pytest.mark.parametrize("index", range(3))
def test_recall_of_the_published_code(oracle: Any, index: int) -> None:
    oracles = oracle("proposals")["recall"]
    case = oracles["cases"][index]
    truth = {str(i): objects(voc_to_edges(as_boxes(boxes))) for i, boxes in enumerate(case["gts"])}
    proposals = {str(i): inclusive_to_edges(as_boxes(boxes)) for i, boxes in enumerate(case["proposals"])}
    got = recall_curve(
        truth,
        proposals,
        recall_thresholds=oracles["iou_thrs"],
        strict_denominator=False,
        convention=convention_of("voc"),
    )
    assert [value for (value,) in got.recall.values()] == pytest.approx(case["recall"][0])


def test_the_strict_denominator_counts_images_without_proposals(oracle: Any) -> None:
    case = oracle("proposals")["recall"]["cases"][1]
    assert case["name"] == "image_without_proposals"
    truth = {str(i): objects(voc_to_edges(as_boxes(boxes))) for i, boxes in enumerate(case["gts"])}
    proposals = {
        str(i): inclusive_to_edges(as_boxes(boxes)) for i, boxes in enumerate(case["proposals"]) if boxes
    }
    strict = recall_curve(truth, proposals, recall_thresholds=(0.5, 0.6, 0.75, 0.9), convention=PUBLISHED_VOC)
    assert [value for (value,) in strict.recall.values()] == pytest.approx([0.75, 0.75, 0.75, 0.5])
    assert strict.mean_counts == pytest.approx((5 / 3,))


@pytest.mark.parametrize(("layout", "hit"), [("voc", 0), ("coco", 1), ("folder", 1)])
def test_the_shift_by_a_pixel_is_vocs_alone(layout: str, hit: float) -> None:
    """COCO's boxes were read as VOC's: a perfect proposal had an IoU of .68 with its object."""
    truth, proposals = {"a": objects(squares(0))}, {"a": as_boxes(squares(0))}
    got = recall_curve(truth, proposals, convention=convention_of(layout))
    assert got.recall[0.75] == (hit,)


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ([], []),
        ([0.3], [0]),
        ([0.2, 0.9, 0.5], [1, 2, 0]),
        ([0.5, 0.9, 0.5, 0.5], [1, 0, 2, 3]),
        ([np.nan, 0.1, np.nan, 0.2], [3, 1, 0, 2]),
        ([np.nan, np.nan], [0, 1]),
    ],
)
def test_the_best_come_first(scores: list[float], order: list[int]) -> None:
    boxes = as_boxes(squares(*range(len(scores))))
    got = best_first(Proposals.from_boxes(boxes, "import", np.asarray(scores, np.float32)))
    assert got.tolist() == boxes[order].tolist()


def test_a_curve_by_hand() -> None:
    truth = {"a": objects(squares(0, 20)), "b": objects(squares(0))}
    proposals = {
        "a": as_boxes([*squares(50, 0), [20, 0, 30, 8]]),  # nothing, the first, 0.8 of the second
        "b": as_boxes(squares(0)),
    }
    got = recall_curve(truth, proposals, budgets=(1, 2, 10, None), recall_thresholds=(0.5, 0.9))
    assert got.budgets == (1, 2, 10, None)
    assert got.mean_counts == (1, 1.5, 2, 2)
    assert got.recall[0.5] == pytest.approx((1 / 3, 2 / 3, 1, 1))
    assert got.recall[0.9] == pytest.approx((1 / 3, 2 / 3, 2 / 3, 2 / 3))


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_any_number_of_proposals(n: int) -> None:
    boxes = squares(0, 20, 40, 60, 80, 100)
    got = recall_curve(
        {"a": objects(boxes)},
        {"a": as_boxes((boxes + boxes)[:n])},
        budgets=(1, 5, None),
        recall_thresholds=(0.5,),
    )
    assert got.recall[0.5] == pytest.approx([min(n, kept, 6) / 6 for kept in (1, 5, 7)])
    assert got.mean_counts == (min(n, 1), min(n, 5), n)


def test_images_without_proposals() -> None:
    truth = {"a": objects(squares(0)), "b": objects(squares(0))}
    proposals = {"a": as_boxes(squares(0))}
    strict = recall_curve(truth, proposals, budgets=(1, None), recall_thresholds=(0.5,))
    loose = recall_curve(
        truth, proposals, budgets=(1, None), recall_thresholds=(0.5,), strict_denominator=False
    )
    assert strict.recall[0.5] == (0.5, 0.5)
    assert loose.recall[0.5] == (1, 1)
    assert strict.mean_counts == loose.mean_counts == (0.5, 0.5)


def test_difficult_objects_can_be_left_out() -> None:
    truth = {"a": objects(squares(0, 20), [False, True])}
    got = recall_curve(
        truth, {"a": as_boxes(squares(0))}, budgets=(None,), recall_thresholds=(0.5,), difficult="exclude"
    )
    assert got.recall[0.5] == (1,)


def test_nothing_to_find() -> None:
    got = recall_curve({}, {}, budgets=(1, None), recall_thresholds=(0.5,))
    assert np.isnan(got.recall[0.5]).all()
    assert got.mean_counts == (0, 0)
    with pytest.raises(UserError, match="proposals: 1 images"):
        recall_curve({}, {"a": as_boxes([])}, budgets=(1,), recall_thresholds=(0.5,))


def test_a_curve_in_the_results_file() -> None:
    curve = RecallCurve((5, None), (5.0, 7.25), {0.5: (0.25, 0.5), 0.75: (float("nan"), 0.125)})
    assert json.loads(json.dumps(curve.as_json(), allow_nan=False)) == {
        "budgets": [5, None],
        "proposals an image": [5.0, 7.25],
        "recall": {"0.5": [0.25, 0.5], "0.75": [None, 0.125]},
    }


@given(
    overlap=hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 7), st.integers(0, 7)),
        elements=st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]),
    )
)
def test_a_further_proposal_makes_no_object_worse_off(overlap: Any) -> None:
    steps = [greedy_one_to_one(overlap[:, :kept]) for kept in range(overlap.shape[1] + 1)]
    for before, after in pairwise(steps):
        assert (after >= before).all()


def test_a_further_object_can_take_a_proposal_from_another() -> None:
    overlap = np.asarray([[0.6], [0.9]])
    assert greedy_one_to_one(overlap[:1]).tolist() == [0.6]
    assert greedy_one_to_one(overlap).tolist() == [-1, 0.9]


BOXES = hnp.arrays(np.int64, st.tuples(st.integers(0, 7), st.just(4)), elements=st.integers(0, 6)).map(
    lambda drawn: as_boxes(np.concatenate([drawn[:, :2], drawn[:, :2] + drawn[:, 2:] + 1], axis=1))
)


@given(samples=st.lists(st.tuples(BOXES, BOXES), max_size=3), strict=st.booleans())
def test_curves_never_fall_and_end_at_the_recall_of_all(samples: Any, strict: bool) -> None:
    truth = {str(index): objects(wanted) for index, (wanted, _) in enumerate(samples)}
    proposals = {str(index): boxes for index, (_, boxes) in enumerate(samples)}
    how: dict[str, Any] = {
        "recall_thresholds": THRESHOLDS,
        "strict_denominator": strict,
        "convention": PUBLISHED_VOC,
    }
    got = recall_curve(truth, proposals, budgets=(1, 2, 3, 6, None), **how)
    whole = recall_curve(truth, proposals, **how)
    for threshold in THRESHOLDS:
        values = np.asarray(got.recall[threshold])
        assert np.array_equal(values[-1:], whole.recall[threshold], equal_nan=True)
        assert np.isnan(values).all() or (np.diff(values) >= 0).all()
    assert got.mean_counts[-1:] == whole.mean_counts
    assert (np.diff(got.mean_counts) >= 0).all()


@settings(max_examples=80, deadline=None)
@given(
    overlap=hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 7), st.integers(0, 7)),
        elements=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
    )
)
def test_greedy_matching(overlap: Any) -> None:
    got = greedy_one_to_one(overlap)
    assert got.shape == (len(overlap),)
    assert (got == -1).sum() == max(0, overlap.shape[0] - overlap.shape[1])
    if overlap.size:
        assert got.max() == overlap.max()
        assert sorted(got[got >= 0])[::-1] == sorted((value for value in got if value >= 0), reverse=True)
    pairs = sorted(((value, r, c) for (r, c), value in np.ndenumerate(overlap)), key=lambda item: -item[0])
    rows: dict[int, float] = {}
    columns: set[int] = set()
    for value, row, column in pairs:
        if row not in rows and column not in columns:
            rows[row] = value
            columns.add(column)
    assert {row: value for row, value in enumerate(got) if value >= 0} == rows
