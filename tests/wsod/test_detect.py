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


def test_the_best_of_the_image_stay_and_ties_with_the_last() -> None:
    scores = np.asarray([[0.5, 0.5], [0.0, 0.0], [0.5, 0.9]], np.float32)
    assert len(select_detections(BOXES, scores, most=1)) == 1
    assert len(select_detections(BOXES, scores, most=2)) == 4


@pytest.mark.parametrize("n", [0, 1, 2])
def test_every_number(n: int) -> None:
    found = select_detections(BOXES[:n], np.full((n, 2), 0.5, np.float32))
    assert len(found) == (0 if n == 0 else 2)
    assert len(select_detections(BOXES[:n], np.zeros((n, 0), np.float32))) == 0


def test_a_box_for_each_class() -> None:
    """The same proposals lie apart as class 0 and together as class 1."""
    together = np.asarray([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10]], np.float32)
    boxes = np.stack([BOXES + np.float32(50) * np.arange(3, dtype=np.float32)[:, None], together], axis=1)
    scores = np.asarray([[0.5, 0.3], [0.9, 0.8], [0.2, 0.4]], np.float32)
    found = select_detections(boxes, scores)
    assert found.class_index.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.2, 0.8])
    np.testing.assert_array_equal(found.boxes, boxes[[1, 0, 2, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_one_box_for_all_classes_is_that_box_for_each(n: int) -> None:
    rng = np.random.default_rng(n)
    low = rng.uniform(0, 20, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 20, (n, 2))], axis=1).astype(np.float32)
    scores = rng.random((n, 3), dtype=np.float32)
    shared = select_detections(boxes, scores, most=5)
    repeated = select_detections(np.repeat(boxes[:, None], 3, axis=1), scores, most=5)
    assert (len(shared) > 0) == (n > 0) and len(shared) <= 5
    np.testing.assert_array_equal(shared.boxes, repeated.boxes)
    np.testing.assert_array_equal(shared.class_index, repeated.class_index)
    np.testing.assert_array_equal(shared.scores, repeated.scores)


@pytest.mark.parametrize(
    "flat", [[5, 0, 5, 10], [0, 7, 10, 7], [8, 0, 2, 10], [0, 9, 10, 3], [8, 9, 2, 3], [0, 0, 0, 0]]
)
def test_boxes_without_area_are_no_detections(flat: list[float]) -> None:
    boxes = np.asarray([flat, [0, 0, 10, 10]], np.float32)
    scores = np.asarray([[0.9], [0.1]], np.float32)
    assert select_detections(boxes, scores).boxes.tolist() == [[0, 0, 10, 10]]
    assert select_detections(boxes[:, None], scores).boxes.tolist() == [[0, 0, 10, 10]]
    assert len(select_detections(boxes[:1], scores[:1])) == 0


def test_the_threshold_is_strict() -> None:
    scores = np.asarray([[0.5], [0.0], [0.25]], np.float32)
    assert select_detections(BOXES, scores, score_threshold=0.25).scores.tolist() == [0.5]
    assert len(select_detections(BOXES, scores, score_threshold=0.5)) == 0


@pytest.mark.parametrize("shape", [(3, 3, 4), (2, 4), (3, 5), (3, 2, 1, 4), (2, 3, 4)])
def test_boxes_that_do_not_fit_the_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected shape \(3, 4\) or \(3, 2, 4\)"):
        select_detections(np.zeros(shape, np.float32), np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    boxes, scores = BOXES.copy(), np.full((3, 1), 0.5, np.float32)
    boxes[1, 2] = bad
    with pytest.raises(ValueError, match="expected finite"):
        select_detections(boxes, scores)
    scores[0] = bad
    with pytest.raises(ValueError, match="expected finite"):
        select_detections(BOXES, scores)
