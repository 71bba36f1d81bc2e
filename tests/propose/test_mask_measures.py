from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from weaksam_cli.core.boxes import inclusive_to_edges
from weaksam_cli.propose.mask_measures import measure_logits


def edges_unless_empty(inclusive: Any, masks: Any) -> Any:
    edges = inclusive_to_edges(np.asarray(inclusive, np.float32))
    edges[~np.asarray(masks, bool).any(axis=(1, 2))] = 0
    return edges


def test_boxes_of_the_published_masks(oracle: Any) -> None:
    case = oracle("proposals")["mask_to_box"]
    masks = torch.tensor(case["masks"], dtype=torch.bool)
    found = measure_logits(masks.float() - 0.5).boxes.numpy()
    np.testing.assert_array_equal(found, edges_unless_empty(case["boxes_xyxy_inclusive"], case["masks"]))
    filled = masks.flatten(1).any(1).numpy()
    sides = found[filled, 2:] - found[filled, :2] - 1
    np.testing.assert_array_equal(sides, np.asarray(case["xywh"])[filled, 2:])


def test_stability_of_the_published_logits(oracle: Any) -> None:
    case = oracle("proposals")["stability"]
    logits = torch.tensor(case["logits"])
    found = measure_logits(logits, threshold=case["mask_threshold"], offset=case["offset"]).stability
    assert found[0] == case["score"][0]
    assert torch.isnan(found[1])


def test_cuts_are_strict() -> None:
    logits = torch.tensor([[[1.0, 1.5, 0.0, -1.0, -0.5]]])
    found = measure_logits(logits)
    assert float(found.stability[0]) == pytest.approx(1 / 4)
    assert int(found.area[0]) == 2 and found.boxes.tolist() == [[0, 0, 2, 1]]


@pytest.mark.parametrize("shape", [(0, 4, 5), (1, 1, 1), (6, 3, 7), (7, 9, 2)])
def test_agrees_with_the_package(shape: tuple[int, int, int]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1
    found = measure_logits(logits)
    masks = logits > 0
    expected = edges_unless_empty(batched_mask_to_box(masks).numpy(), masks.numpy())
    np.testing.assert_array_equal(found.boxes.numpy(), expected)
    torch.testing.assert_close(found.stability, calculate_stability_score(logits, 0.0, 1.0), equal_nan=True)
    assert found.area.dtype == torch.int64


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9))))
def test_boxes_are_tight(masks: Any) -> None:
    boxes = measure_logits(torch.from_numpy(masks).float() - 0.5).boxes
    for box, mask in zip(boxes.tolist(), masks, strict=True):
        rows, columns = np.nonzero(mask)
        expected = (
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        )
        assert box == expected
