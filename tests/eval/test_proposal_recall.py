from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_cli.core.boxes import as_boxes, inclusive_to_edges, voc_to_edges
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval.conventions import PUBLISHED_RECALL
from weaksam_cli.eval.matching import greedy_one_to_one
from weaksam_cli.eval.proposal_recall import proposal_recall


def objects(boxes: Any, difficult: Any = None) -> GroundTruth:
    n = len(boxes)
    flags = np.zeros(n, bool) if difficult is None else np.asarray(difficult, bool)
    return GroundTruth(as_boxes(boxes), np.zeros(n, np.int32), flags)


@pytest.mark.parametrize("index", range(3))
def test_recall_of_the_published_code(oracle: Any, index: int) -> None:
    oracles = oracle("proposals")["recall"]
    case = oracles["cases"][index]
    truth = {str(i): objects(voc_to_edges(as_boxes(boxes))) for i, boxes in enumerate(case["gts"])}
    proposals = {str(i): inclusive_to_edges(as_boxes(boxes)) for i, boxes in enumerate(case["proposals"])}
    got = proposal_recall(
        truth,
        proposals,
        thresholds=oracles["iou_thrs"],
        strict_denominator=False,
        convention=PUBLISHED_RECALL,
    )
    assert list(got.recall.values()) == pytest.approx(case["recall"][0])


def test_the_strict_denominator_counts_images_without_proposals(oracle: Any) -> None:
    case = oracle("proposals")["recall"]["cases"][1]
    assert case["name"] == "image_without_proposals"
    truth = {str(i): objects(voc_to_edges(as_boxes(boxes))) for i, boxes in enumerate(case["gts"])}
    proposals = {
        str(i): inclusive_to_edges(as_boxes(boxes)) for i, boxes in enumerate(case["proposals"]) if boxes
    }
    strict = proposal_recall(truth, proposals, convention=PUBLISHED_RECALL)
    assert list(strict.recall.values()) == pytest.approx([0.75, 0.75, 0.75, 0.5])
    assert strict.n_objects == 4
    assert strict.mean_count == pytest.approx(5 / 3)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_any_number_of_proposals(n: int) -> None:
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(6)]
    got = proposal_recall({"a": objects(boxes)}, {"a": as_boxes((boxes + boxes)[:n])})
    assert got.recall[0.5] == pytest.approx(min(n, 6) / 6)
    assert got.mean_count == n
    assert got.n_images == 1


def test_difficult_objects_can_be_left_out() -> None:
    truth = {"a": objects([[0, 0, 10, 10], [20, 0, 30, 10]], [False, True])}
    proposals = {"a": as_boxes([[0, 0, 10, 10]])}
    assert proposal_recall(truth, proposals).recall[0.9] == 0.5
    assert proposal_recall(truth, proposals, include_difficult=False).recall[0.9] == 1


def test_nothing_to_find() -> None:
    assert np.isnan(proposal_recall({"a": objects([])}, {}).recall[0.5])
    assert proposal_recall({}, {}).mean_count == 0


def test_unknown_images_are_the_users_matter() -> None:
    with pytest.raises(UserError, match="proposals: 1 images"):
        proposal_recall({}, {"a": as_boxes([])})


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
