from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.core.boxes import edges_to_inclusive, inclusive_to_edges
from weaksam_cli.wsod.proposal_filter import (
    MIST_COCO,
    MIST_VOC,
    OICR,
    WHOLE_IMAGE,
    ProposalFilter,
    filter_proposals,
    first_of_duplicates,
)


def edges(inclusive: Any) -> Any:
    return inclusive_to_edges(np.asarray(inclusive, np.float32).reshape(-1, 4))


def test_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["voc_proposal_filter"]
    boxes = edges(case["raw"])
    width, height = case["image_size"]
    assert first_of_duplicates(boxes).tolist() == case["unique_index"]
    # Clipping removes boxes without extent there, which is a least side of 2 for integers.
    clipped = filter_proposals(boxes, height, width, MIST_COCO)
    np.testing.assert_array_equal(edges_to_inclusive(clipped.boxes), case["after_clip"])
    found = filter_proposals(boxes, height, width, MIST_VOC)
    np.testing.assert_array_equal(edges_to_inclusive(found.boxes), case["after_min20"])
    assert found.index.tolist() == [0, 3]


@pytest.mark.parametrize(("side", "mist", "oicr"), [(19, False, False), (20, True, False), (21, True, True)])
def test_least_side(side: int, mist: bool, oicr: bool) -> None:
    boxes = np.asarray([[0, 0, side, 50], [0, 0, 50, side]], np.float32)
    assert (filter_proposals(boxes, 100, 100, MIST_VOC).index != WHOLE_IMAGE).all() == mist
    assert (filter_proposals(boxes, 100, 100, OICR).index != WHOLE_IMAGE).all() == oicr


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_nothing_left_gives_the_whole_image(n: int) -> None:
    tiny = np.tile(np.asarray([[3, 3, 5, 5]], np.float32), (n, 1))
    found = filter_proposals(tiny, 30, 40, MIST_VOC)
    assert found.boxes.tolist() == [[0, 0, 40, 30]] and found.index.tolist() == [WHOLE_IMAGE]
    assert found.boxes.dtype == np.float32


def test_duplicates_beyond_a_thousand_pixels_are_told_apart() -> None:
    """The published hash gives (1000, 0, ...) and (0, 1, ...) the same number."""
    boxes = edges([[1000, 0, 1500, 900], [0, 1, 1500, 900], [1000, 0, 1500, 900]])
    assert first_of_duplicates(boxes).tolist() == [0, 1]


def test_duplicates_of_a_cell() -> None:
    boxes = edges([[10, 10, 59, 59], [11, 9, 58, 57], [10, 10, 90, 59]])
    assert filter_proposals(boxes, 100, 100, OICR).index.tolist() == [0, 2]
    assert filter_proposals(boxes, 100, 100, MIST_VOC).index.tolist() == [0, 1, 2]


def test_a_box_clipped_away_is_dropped() -> None:
    boxes = np.asarray([[-50, 0, -10, 60], [90, 0, 300, 60]], np.float32)
    found = filter_proposals(boxes, 100, 120, MIST_VOC)
    assert found.boxes.tolist() == [[90, 0, 120, 60]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-20, 120, width=32)] * 4), max_size=25),
    st.sampled_from([MIST_VOC, MIST_COCO, OICR, ProposalFilter(min_side=0.5, cell=3)]),
)
def test_properties(rows: list[Any], rule: ProposalFilter) -> None:
    corners = np.asarray(rows, np.float32).reshape(-1, 2, 2)
    boxes = np.sort(corners, axis=1).reshape(-1, 4)
    found = filter_proposals(boxes, 80, 100, rule)
    assert len(found.boxes) >= 1 and len(found.boxes) == len(found.index)
    assert (found.boxes >= 0).all() and (found.boxes <= [100, 80, 100, 80]).all()
    assert (np.diff(found.index) > 0).all()
    if found.index[0] != WHOLE_IMAGE:
        again = filter_proposals(found.boxes, 80, 100, rule)
        np.testing.assert_array_equal(again.boxes, found.boxes)
