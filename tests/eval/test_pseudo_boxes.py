from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.eval.pseudo_boxes import precision_and_recall

CLASSES = ["cat", "dog"]


def test_true_false_and_difficult() -> None:
    truth = {
        "a": GroundTruth(
            as_boxes([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]),
            np.asarray([0, 0, 1], np.int32),
            np.asarray([False, True, False]),
        ),
        "b": GroundTruth(as_boxes([[0, 0, 10, 10]]), np.asarray([0], np.int32), np.asarray([False])),
    }
    pseudo = {
        "a": Detections(
            as_boxes([[0, 0, 10, 8], [0, 0, 9, 10], [20, 0, 30, 10]]),
            np.asarray([0, 0, 0], np.int32),
            np.asarray([0.9, 0.8, 0.7], np.float32),
        )
    }
    precision, recall = precision_and_recall(truth, pseudo, CLASSES)
    assert precision.values == pytest.approx({"cat": 0.5, "dog": np.nan}, nan_ok=True)
    assert recall.values == pytest.approx({"cat": 0.5, "dog": 0})
    assert precision.support == {"cat": 2, "dog": 0}
    assert recall.support == {"cat": 2, "dog": 1}
    assert precision.total == pytest.approx(1 / 2)
    assert recall.total == pytest.approx(1 / 3)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_any_number_of_pseudo_boxes(n: int) -> None:
    boxes = as_boxes([[20 * i, 0, 20 * i + 10, 10] for i in range(n)])
    classes = np.zeros(n, np.int32)
    truth = {"a": GroundTruth(boxes, classes, np.zeros(n, bool))}
    precision, recall = precision_and_recall(
        truth, {"a": Detections(boxes, classes, np.ones(n, np.float32))}, CLASSES
    )
    assert precision.total == pytest.approx(1 if n else np.nan, nan_ok=True)
    assert recall.total == pytest.approx(1 if n else np.nan, nan_ok=True)
