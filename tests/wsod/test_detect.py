"""From scores of proposals to detections."""

from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.wsod.detect import select_detections

BOXES = np.asarray([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], np.float32)


def test_class_wise_nms_and_order() -> None:
    scores = np.asarray([[0.5, 0.1], [0.9, 0.0], [0.2, 0.3]], np.float32)
    found = select_detections(BOXES, scores)
    assert found.class_index.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.2, 0.3, 0.1])
    np.testing.assert_array_equal(found.boxes[0], BOXES[1])


def test_the_best_of_the_picture_stay_and_ties_with_the_last() -> None:
    scores = np.asarray([[0.5, 0.5], [0.0, 0.0], [0.5, 0.9]], np.float32)
    assert len(select_detections(BOXES, scores, most=1)) == 1
    assert len(select_detections(BOXES, scores, most=2)) == 4


@pytest.mark.parametrize("n", [0, 1, 2])
def test_every_number(n: int) -> None:
    found = select_detections(BOXES[:n], np.full((n, 2), 0.5, np.float32))
    assert len(found) == (0 if n == 0 else 2)
    assert len(select_detections(BOXES[:n], np.zeros((n, 0), np.float32))) == 0
