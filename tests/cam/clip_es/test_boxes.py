from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weaksam_cli.cam.clip_es.boxes import box_mask, scoremap_boxes


def test_boxes_are_those_of_the_published_code(oracle: Any) -> None:
    cases = oracle("clipes")["scoremap2bbox"]["cases"]
    assert len(cases) == 6
    for case in cases:
        boxes = scoremap_boxes(np.asarray(case["map"], np.float32), case["threshold"])
        assert [list(box) for box in boxes] == case["boxes_x0y0x1y1"], case["name"]
        assert len(boxes) == case["count"]


def test_the_mask_never_covers_the_last_row_and_column_unless_it_is_told_to() -> None:
    full = np.ones((3, 4), np.float32)
    published = box_mask(scoremap_boxes(full, 0.4), 3, 4)
    assert published.tolist() == [[True, True, True, False], [True, True, True, False], [False] * 4]
    assert box_mask(scoremap_boxes(full, 0.4, cover_border=True), 3, 4).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (2, 2)])
def test_tiny_maps(shape: tuple[int, int]) -> None:
    cam = np.ones(shape, np.float32)
    assert box_mask(scoremap_boxes(cam, 0.4, cover_border=True), *shape).all()
    assert box_mask(scoremap_boxes(cam, 0.4), *shape).sum() == (shape[0] - 1) * (shape[1] - 1)


def test_a_hole_has_a_box_of_its_own() -> None:
    ring = np.ones((7, 7), np.float32)
    ring[2:5, 2:5] = 0
    assert len(scoremap_boxes(ring, 0.4)) == 2


@pytest.mark.parametrize(("value", "boxes"), [(102 / 255, 0), (103 / 255, 1)])
def test_the_threshold_is_strict_in_8_bit_steps(value: float, boxes: int) -> None:
    cam = np.zeros((5, 7), np.float32)
    cam[1, 1], cam[3, 5] = 1, value + 1e-4
    assert len(scoremap_boxes(cam, 0.4)) == 1 + boxes


def test_overlapping_boxes_and_an_empty_one() -> None:
    mask = box_mask([(0, 0, 2, 2), (1, 1, 3, 2), (0, 0, 0, 0)], 2, 4)
    assert mask.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert not box_mask([(0, 0, 0, 0)], 2, 4).any()
