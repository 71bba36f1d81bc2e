from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from weaksam_cli.core.boxes import inclusive_to_edges
from weaksam_cli.wsod.losses import encode
from weaksam_cli.wsod.mining import (
    BACKGROUND,
    Assignment,
    PseudoBoxes,
    assign,
    balanced_weights,
    max_ratio_pseudo_boxes,
    mist_pseudo_boxes,
    pairwise_iou,
    top_one_pseudo_boxes,
    without_last_pixel,
)

Miner = Callable[..., PseudoBoxes]
MIST_CASES = ["p=0.15", "p=0.5", "p=1.0", "no_label", "four_rois", "one_roi_two_classes"]


def with_background(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, boxes and image labels of a case whose first column is background; its boxes are inclusive indexes."""
    return (
        torch.tensor(case["source_score"])[:, 1:],
        torch.from_numpy(inclusive_to_edges(np.asarray(case["boxes_xyxy"], np.float32))),
        torch.tensor(case["labels"])[1:],
    )


def assert_published(found: Assignment, boxes: torch.Tensor, case: dict[str, Any]) -> None:
    assert (found.labels + 1).tolist() == case["pseudo_labels"]
    torch.testing.assert_close(found.weights, torch.tensor(case["loss_weights"]))
    targets = encode(found.matched, boxes)
    torch.testing.assert_close(targets, torch.tensor(case["regression_targets"]))


@pytest.mark.parametrize("name", MIST_CASES)
def test_mist_as_published(oracle: Any, name: str) -> None:
    case = next(case for case in oracle("mist_wetectron")["mist_layer"]["cases"] if case["name"] == name)
    scores, boxes, labels = with_background(case)
    pseudo = mist_pseudo_boxes(scores, boxes, labels, share=case["p"])
    assert_published(assign(boxes, pseudo), boxes, case)


def test_top_one_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["oicr_layer_wetectron"]
    scores, boxes, labels = with_background(case)
    pseudo = top_one_pseudo_boxes(scores, boxes, labels)
    assert_published(assign(boxes, pseudo, above=True), boxes, case)


def test_max_ratio_as_published(oracle: Any) -> None:
    for name in ("pseudo_gt", "pseudo_gt_near_ties"):
        case = oracle("oicr_wsod2")[name]
        boxes = torch.tensor(case["boxes_xyxy"])
        pseudo = max_ratio_pseudo_boxes(torch.tensor(case["prob"]), boxes, torch.tensor(case["image_labels"]))
        torch.testing.assert_close(pseudo.boxes, torch.tensor(case["gt_boxes"]))
        assert pseudo.classes.tolist() == case["gt_classes"]
        torch.testing.assert_close(pseudo.scores, torch.tensor(case["gt_scores"]))
        found = assign(boxes, pseudo)
        assert found.labels.tolist() == case["roi_labels"]
        torch.testing.assert_close(found.weights, torch.tensor(case["roi_weights"]))
        torch.testing.assert_close(found.matched, torch.tensor(case["roi_targets"]))


def test_class_wise_suppression_keeps_a_box_of_each_class(oracle: Any) -> None:
    """The published rule leaves class 0 without any pseudo box here."""
    case = oracle("oicr_wsod2")["pseudo_gt"]
    boxes = torch.tensor(case["boxes_xyxy"])
    labels = torch.tensor(case["image_labels"])
    pseudo = max_ratio_pseudo_boxes(torch.tensor(case["prob"]), boxes, labels, class_wise=True)
    assert sorted(set(pseudo.classes.tolist())) == [0, 2]
    assert (pseudo.scores[:-1] >= pseudo.scores[1:]).all()


def test_a_score_of_exactly_the_share_of_the_best_is_mined() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [80, 0, 90, 10]])
    scores = torch.tensor([[0.8], [0.4], [0.39]])
    assert len(max_ratio_pseudo_boxes(scores, boxes, torch.ones(1), ratio=0.5)) == 2


def test_the_best_of_one_class_is_no_later_class_s() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.1, 0.7]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    both = torch.tensor([True, True])
    assert top_one_pseudo_boxes(scores, boxes, both).boxes.tolist() == boxes.tolist()
    assert scores[0, 1] == torch.tensor(0.8)


def test_a_suppressed_candidate_of_mist_still_suppresses() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [6, 0, 16, 10], [12, 0, 22, 10]] + [[90.0, 90, 99, 99]] * 7)
    scores = torch.tensor([[0.9], [0.8], [0.7]] + [[0.1]] * 7)
    kept = mist_pseudo_boxes(scores, boxes, torch.ones(1), share=0.3)
    assert kept.boxes.tolist() == [boxes[0].tolist()]


@pytest.mark.parametrize(
    ("rois", "share", "seeds"),
    [(9, 1.0, 1), (10, 0.15, 1), (14, 0.15, 2), (20, 0.15, 3), (10, 0.05, 1), (10, 0.5, 5)],
)
def test_number_of_mist_candidates(rois: int, share: float, seeds: int) -> None:
    left = torch.arange(rois) * 20.0
    boxes = torch.stack([left, left, left + 10, left + 10], dim=1)
    scores = torch.linspace(0.1, 0.9, rois)[:, None]
    assert len(mist_pseudo_boxes(scores, boxes, torch.ones(1), share=share)) == seeds


@pytest.mark.parametrize(("above", "labels"), [(False, [0, 0]), (True, [0, BACKGROUND])])
def test_foreground_at_exactly_one_half(above: bool, labels: list[int]) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    pseudo = PseudoBoxes(boxes[:1], torch.tensor([0]), torch.tensor([0.4]))
    found = assign(boxes, pseudo, above=above)
    assert found.labels.tolist() == labels and found.weights.tolist() == pytest.approx([0.4, 0.4])


MINERS: dict[str, Miner] = {
    "top one": top_one_pseudo_boxes,
    "max ratio": max_ratio_pseudo_boxes,
    "max ratio, class-wise": lambda *args: max_ratio_pseudo_boxes(*args, class_wise=True),
    "mist": mist_pseudo_boxes,
}


@pytest.mark.parametrize("miner", MINERS.values(), ids=MINERS.keys())
@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 10, 40])
@pytest.mark.parametrize("present", [[], [1], [0, 1, 2]])
def test_every_number_of_proposals_and_classes(miner: Miner, n: int, present: list[int]) -> None:
    generator = torch.Generator().manual_seed(n)
    corner = torch.rand(n, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 50], dim=1)
    scores = torch.rand(n, 3, generator=generator, requires_grad=True)
    labels = torch.zeros(3).index_fill(0, torch.tensor(present, dtype=torch.int64), 1.0)
    pseudo = miner(scores, boxes, labels)
    assert not pseudo.scores.requires_grad
    assert set(pseudo.classes.tolist()) <= set(present)
    assert (len(pseudo) > 0) == (n > 0 and len(present) > 0)
    found = assign(boxes, pseudo)
    assert found.labels.shape == found.weights.shape == (n,) and found.matched.shape == (n, 4)
    if not len(pseudo):
        assert (found.labels == BACKGROUND).all() and (found.weights == 0).all()
        assert torch.equal(found.matched, boxes)
    assert set(found.labels.tolist()) <= {BACKGROUND, *present}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**31))
def test_mist_definition(n: int, seed: int) -> None:
    """Against the definition written as loops."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (n, 2))
    boxes = torch.from_numpy(
        np.concatenate([corner, corner + rng.integers(1, 20, (n, 2))], 1).astype(np.float32)
    )
    scores = torch.from_numpy(rng.permutation(n).astype(np.float32))[:, None]
    order = np.argsort(-scores[:, 0].numpy())[: int(n * 0.4) if n >= 10 else 1]
    overlaps = pairwise_iou(boxes, boxes).numpy()
    kept = [j for rank, j in enumerate(order) if all(overlaps[j, i] < 0.2 for i in order[:rank])]
    found = mist_pseudo_boxes(scores, boxes, torch.ones(1), share=0.4)
    assert found.boxes.tolist() == boxes[kept].tolist()
    assert found.scores.tolist() == scores[kept, 0].tolist()


@pytest.mark.parametrize(
    ("labels", "share", "expected"),
    [
        ([-1, -1, 0, 1], 0.25, [1.5, 1.5, 0.5, 0.5]),
        ([0, 1], 0.25, [1, 1]),
        ([-1, -1, -1], 0.25, [1, 1, 1]),
        ([], 0.5, []),
    ],
)
def test_balanced_weights(labels: list[int], share: float, expected: list[float]) -> None:
    weights = balanced_weights(torch.tensor(labels, dtype=torch.int64), share)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


number = st.integers(0, 60)
box = st.tuples(number, number, st.integers(1, 60), st.integers(1, 60)).map(
    lambda corner: [corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]]
)
box_tables = st.lists(box, min_size=1, max_size=8).map(lambda rows: torch.tensor(rows, dtype=torch.float32))


@settings(max_examples=60, deadline=None)
@given(box_tables, box_tables)
def test_iou_agrees_with_torchvision(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 2), (2, 0), (1, 1)])
def test_iou_of_few(n: int, m: int) -> None:
    assert pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).tolist() == torch.zeros(n, m).tolist()


def test_plus_one_iou_as_published(oracle: Any) -> None:
    case = oracle("proposals")["bbox_overlaps_plus1"]
    a, b = (
        torch.from_numpy(inclusive_to_edges(np.asarray(case[name], np.float32)))
        for name in ("boxes1", "boxes2")
    )
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor(case["iou"]))
    torch.testing.assert_close(without_last_pixel(a), torch.tensor(case["boxes1"], dtype=torch.float32))
