from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms as torchvision_nms

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import edges_to_inclusive
from weaksam_cli.propose.grid import GridFilter, filter_grid, grid_points


def make(boxes: Any, quality: Any, stability: Any | None = None) -> Proposals:
    n = len(boxes)
    return Proposals(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.zeros(n, np.int8),
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int8),
        np.asarray(quality, np.float32),
        np.ones(n, np.float32) if stability is None else np.asarray(stability, np.float32),
    )


def test_published_points(oracle: Any) -> None:
    case = oracle("proposals")["point_grid"]
    np.testing.assert_array_equal(grid_points(2, 1, 1), case["n2"])
    points = grid_points(32, 1, 1)
    assert len(points) == case["n32_count"]
    np.testing.assert_array_equal(points[:3], case["n32_first3"])
    np.testing.assert_array_equal(points[-1], case["n32_last"])


def test_points_scale_with_width_and_height() -> None:
    np.testing.assert_array_equal(grid_points(2, 100, 40), [[10, 25], [30, 25], [10, 75], [30, 75]])
    assert grid_points(0, 10, 10).shape == (0, 2)
    assert grid_points(1, 9, 5).tolist() == [[2.5, 4.5]]
    with pytest.raises(ValueError, match="points_per_side"):
        grid_points(-1, 10, 10)


def test_thresholds_are_strict_for_quality_and_not_for_stability() -> None:
    apart = [[20 * i, 0, 20 * i + 10, 10] for i in range(6)]
    quality = [0.3, 0.31, 0.9, 0.9, 0.9, -1.0]
    stability = [0.9, 0.3, 0.29, np.nan, 0.5, 0.9]
    kept = filter_grid(make(apart, quality, stability), GridFilter())
    assert kept.prompt.tolist() == [4, 1]


def test_iou_of_exactly_the_threshold_is_suppressed_as_by_torchvision() -> None:
    """Inclusive boxes (0,0,10,10) and (0,0,10,3): 30/100, which in float32 is above 0.3."""
    boxes = [[0, 0, 11, 11], [0, 0, 11, 4]]
    assert len(filter_grid(make(boxes, [0.9, 0.8]), GridFilter(nms=0.3))) == 1
    assert len(filter_grid(make(boxes, [0.9, 0.8]), GridFilter(nms=0.31))) == 2


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_every_number_of_proposals(n: int) -> None:
    boxes = [[i, i, i + 30, i + 30] for i in range(n)]
    assert len(filter_grid(make(boxes, np.linspace(0.4, 0.9, n)), GridFilter())) == min(n, 1)


boxes_strategy = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 10), st.integers(1, 10)),
    min_size=0,
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(boxes_strategy, st.sampled_from([0.3, 0.5, 0.7, 0.25]), st.integers(0, 2**31))
def test_agrees_with_torchvision(
    corners: list[tuple[int, int, int, int]], threshold: float, seed: int
) -> None:
    boxes = np.asarray([(x, y, x + w, y + h) for x, y, w, h in corners], np.float32).reshape(-1, 4)
    quality = np.random.default_rng(seed).permutation(len(boxes)).astype(np.float32) + 1
    kept = filter_grid(make(boxes, quality), GridFilter(nms=threshold))
    expected = torchvision_nms(
        torch.from_numpy(edges_to_inclusive(boxes)), torch.from_numpy(quality), threshold
    )
    assert kept.prompt.tolist() == expected.tolist()
