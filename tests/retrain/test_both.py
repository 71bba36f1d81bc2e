"""Two lists of boxes of an image become one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import Detections
from weaksam_cli.retrain.both import Fusion, fuse

Row = tuple[int, int, int, int, int, float]
FIRST: Row = (0, 0, 10, 10, 0, 0.6)
SHIFTED: Row = (0, 2, 10, 12, 0, 0.9)
"""IoU of 2 / 3 with it."""
OTHER_CLASS: Row = (0, 0, 10, 10, 1, 0.9)
AWAY: Row = (20, 20, 30, 30, 0, 0.3)


def detections(rows: list[Row]) -> Detections:
    return Detections(
        as_boxes([row[:4] for row in rows]),
        np.asarray([row[4] for row in rows], np.int32),
        np.asarray([row[5] for row in rows], np.float32),
    )


@pytest.mark.parametrize(
    ("wsod", "retrained", "expected"),
    [
        ([], [], []),
        ([FIRST], [], [(*FIRST[:5], 0.4)]),
        ([], [FIRST], [(*FIRST[:5], 0.2)]),
        ([FIRST], [FIRST], [(*FIRST[:5], 0.6)]),
        ([FIRST], [SHIFTED], [(*FIRST[:5], (2 * 0.6 + 0.9 * 2 / 3) / 3)]),
        ([AWAY], [SHIFTED], [(*SHIFTED[:5], 0.3), (*AWAY[:5], 0.2)]),
        ([FIRST], [OTHER_CLASS], [(*FIRST[:5], 0.4), (*OTHER_CLASS[:5], 0.3)]),
        ([FIRST, AWAY], [AWAY], [(*FIRST[:5], 0.4), (*AWAY[:5], 0.3)]),
    ],
)
def test_boxes_that_both_find_come_first(wsod: list[Row], retrained: list[Row], expected: list[Row]) -> None:
    found = fuse(detections(wsod), detections(retrained), Fusion())
    wanted = detections(expected)
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    np.testing.assert_array_equal(found.class_index, wanted.class_index)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)


_ROWS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2), st.integers(0, 100)), max_size=7
).map(lambda rows: detections([(x, y, x + 9, y + 7, index, score / 100) for x, y, index, score in rows]))


@given(_ROWS, _ROWS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_scores_stay_scores_and_no_class_is_lost(
    wsod: Detections, retrained: Detections, weight: float
) -> None:
    found = fuse(wsod, retrained, Fusion(wsod_weight=weight))
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (np.diff(found.scores) <= 0).all()
    assert {*found.class_index} == {*wsod.class_index} | {*retrained.class_index}
    given_ = {tuple(box) for item in (wsod, retrained) for box in item.boxes.tolist()}
    assert {tuple(box) for box in found.boxes.tolist()} <= given_
    again = fuse(found, Detections.empty(), Fusion(wsod_weight=1.0))
    np.testing.assert_array_equal(again.boxes, found.boxes)
