"""The top-3 matcher of the published code, beside detectron2's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.retrain.matcher import TopKMatcher


def test_equals_the_published_matcher(oracle: Any) -> None:
    case = oracle("roi_drop")["matcher_topk"]
    matches, labels = TopKMatcher(0.5, 3)(torch.tensor(case["iou_gt_by_proposal"]))
    assert matches.tolist() == case["topk3"]["matched_gt"]
    assert labels.tolist() == case["topk3"]["label"]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_the_standard_matcher_is_detectron2s(oracle: Any) -> None:
    import_detectron2()
    from detectron2.modeling.matcher import Matcher

    case = oracle("roi_drop")["matcher_topk"]
    matches, labels = Matcher([0.5], [0, 1])(torch.tensor(case["iou_gt_by_proposal"]))
    assert matches.tolist() == case["standard"]["matched_gt"]
    assert labels.tolist() == case["standard"]["label"]


def test_fewer_than_three_proposals(oracle: Any) -> None:
    """The published code raises "selected index k out of range" here."""
    case = oracle("roi_drop")["matcher_topk_fewer_than_3"]
    matches, labels = TopKMatcher()(torch.tensor(case["iou"]))
    assert matches.tolist() == [0, 0]
    assert labels.tolist() == [1, 1]


@pytest.mark.parametrize(("truths", "proposals"), [(0, 0), (0, 1), (0, 7), (1, 0), (2, 0)])
def test_nothing_to_match(truths: int, proposals: int) -> None:
    matches, labels = TopKMatcher()(torch.zeros(truths, proposals))
    assert matches.tolist() == [0] * proposals
    assert labels.tolist() == [0] * proposals


def test_equal_overlaps_keep_their_order() -> None:
    quality = torch.full((1, 6), 0.8)
    assert TopKMatcher()(quality)[1].tolist() == [1, 1, 1, 0, 0, 0]


def test_below_the_threshold_is_background() -> None:
    assert TopKMatcher(0.5)(torch.tensor([[0.49, 0.5, 0.1]]))[1].tolist() == [0, 1, 0]
