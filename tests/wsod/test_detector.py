"""Which proposals a detector is given, what its optimiser does to each parameter, which answers become detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weaksam_cli.artifacts.proposals import Proposals, Source
from weaksam_cli.core.boxes import FloatArray, as_boxes, edges_to_inclusive, inclusive_to_edges
from weaksam_cli.wsod.detector import make_optimizer, select_detections
from weaksam_cli.wsod.settings import InferenceSettings, OptimizerSettings, ProposalSettings
from weaksam_cli.wsod.used_proposals import first_of_duplicates, usable_proposals

ANY = InferenceSettings()
BOXES = np.asarray([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], np.float32)


def test_class_wise_nms_and_order() -> None:
    scores = np.asarray([[0.5, 0.1], [0.9, 0.0], [0.2, 0.3]], np.float32)
    found = select_detections(BOXES, scores, ANY)
    assert found.class_index.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.2, 0.3, 0.1])
    np.testing.assert_array_equal(found.boxes[0], BOXES[1])


def test_the_best_of_the_image_stay_and_ties_with_the_last() -> None:
    scores = np.asarray([[0.5, 0.5], [0.0, 0.0], [0.5, 0.9]], np.float32)
    assert len(select_detections(BOXES, scores, InferenceSettings(detections=1))) == 1
    assert len(select_detections(BOXES, scores, InferenceSettings(detections=2))) == 4


@pytest.mark.parametrize("n", [0, 1, 2])
def test_every_number(n: int) -> None:
    found = select_detections(BOXES[:n], np.full((n, 2), 0.5, np.float32), ANY)
    assert len(found) == (0 if n == 0 else 2)
    assert len(select_detections(BOXES[:n], np.zeros((n, 0), np.float32), ANY)) == 0


def test_a_box_for_each_class() -> None:
    """The same proposals lie apart as class 0 and together as class 1."""
    together = np.asarray([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10]], np.float32)
    boxes = np.stack([BOXES + np.float32(50) * np.arange(3, dtype=np.float32)[:, None], together], axis=1)
    scores = np.asarray([[0.5, 0.3], [0.9, 0.8], [0.2, 0.4]], np.float32)
    found = select_detections(boxes, scores, ANY)
    assert found.class_index.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.2, 0.8])
    np.testing.assert_array_equal(found.boxes, boxes[[1, 0, 2, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_one_box_for_all_classes_is_that_box_for_each(n: int) -> None:
    rng = np.random.default_rng(n)
    low = rng.uniform(0, 20, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 20, (n, 2))], axis=1).astype(np.float32)
    scores = rng.random((n, 3), dtype=np.float32)
    shared = select_detections(boxes, scores, InferenceSettings(detections=5))
    repeated = select_detections(
        np.repeat(boxes[:, None], 3, axis=1), scores, InferenceSettings(detections=5)
    )
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
    assert select_detections(boxes, scores, ANY).boxes.tolist() == [[0, 0, 10, 10]]
    assert select_detections(boxes[:, None], scores, ANY).boxes.tolist() == [[0, 0, 10, 10]]
    assert len(select_detections(boxes[:1], scores[:1], ANY)) == 0


def test_the_threshold_is_strict() -> None:
    scores = np.asarray([[0.5], [0.0], [0.25]], np.float32)
    assert select_detections(BOXES, scores, InferenceSettings(score_threshold=0.25)).scores.tolist() == [0.5]
    assert len(select_detections(BOXES, scores, InferenceSettings(score_threshold=0.5))) == 0


@pytest.mark.parametrize("shape", [(3, 3, 4), (2, 4), (3, 5), (3, 2, 1, 4), (2, 3, 4)])
def test_boxes_that_do_not_fit_the_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected shape \(3, 4\) or \(3, 2, 4\)"):
        select_detections(np.zeros(shape, np.float32), np.zeros((3, 2), np.float32), ANY)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    boxes, scores = BOXES.copy(), np.full((3, 1), 0.5, np.float32)
    boxes[1, 2] = bad
    with pytest.raises(ValueError, match="expected finite"):
        select_detections(boxes, scores, ANY)
    scores[0] = bad
    with pytest.raises(ValueError, match="expected finite"):
        select_detections(BOXES, scores, ANY)


@pytest.mark.parametrize(("inclusive", "kept"), [(False, 1), (True, 2)])
def test_published_nms_does_not_count_the_last_pixel(inclusive: bool, kept: int) -> None:
    """Ten pixels with seven in common: an IoU of 7/13 on edges, of 6/12 on indexes without +1."""
    boxes = np.asarray([[0, 0, 10, 5], [3, 0, 13, 5]], np.float32)
    scores = np.asarray([[0.9], [0.8]], np.float32)
    settings = InferenceSettings(nms=0.51, inclusive=inclusive)
    assert len(select_detections(boxes, scores, settings)) == kept


MIST_VOC = ProposalSettings(min_side=20)
MIST_COCO = ProposalSettings(min_side=2)
OICR = ProposalSettings(min_side=20, above=True, cell=8)


def usable(boxes: FloatArray, height: int, width: int, settings: ProposalSettings) -> FloatArray:
    return usable_proposals(Proposals.from_boxes(as_boxes(boxes), "import"), height, width, settings).boxes


def proposals(*parts: tuple[Source, list[list[float]], list[float]]) -> Proposals:
    made = [Proposals.from_boxes(as_boxes(b), source, np.asarray(s, np.float32)) for source, b, s in parts]
    return Proposals.concatenate(made)


def test_boxes_of_clues_are_cut_last() -> None:
    """They stand behind the grid's, and `most` used to take the first of the file: WeakSAM's own contribution went."""
    grid: list[list[float]] = [[0.0, 0, 30, 30], [0, 0, 40, 40], [0, 0, 50, 50]]
    clues: list[list[float]] = [[0.0, 0, 60, 60], [0, 0, 70, 70]]
    found = proposals(("grid", grid, [0.5, 0.9, 0.8]), ("fine", clues, [0.1, 0.2]))
    kept = usable_proposals(found, 100, 100, ProposalSettings(most=3)).boxes
    assert kept.tolist() == [grid[1], *clues]
    assert len(usable_proposals(found, 100, 100, ProposalSettings(most=1))) == 1


def test_most_counts_what_the_other_rules_leave() -> None:
    """It once counted the file's boxes before small ones and duplicates went on lite0, and after that on vgg16."""
    found = proposals(
        ("grid", [[0.0, 0, 5, 30], [0, 0, 30, 30], [0, 0, 30, 30], [0, 0, 60, 60]], [0.9, 0.8, 0.7, 0.6])
    )
    kept = usable_proposals(found, 100, 100, ProposalSettings(most=2)).boxes
    assert kept.tolist() == [[0, 0, 30, 30], [0, 0, 60, 60]]


@pytest.mark.parametrize(
    ("bias_factor", "refinement_factor", "expected"),
    [
        (None, None, {"first.weight": (1, 0.1), "first.bias": (1, 0.1)}),
        (2.0, None, {"first.weight": (1, 0.1), "first.bias": (2, 0)}),
        (2.0, 10.0, {"heads.refinements.weight": (10, 0.1), "heads.refinements.bias": (10, 0.1)}),
    ],
)
def test_rates_and_decays_by_kind(
    bias_factor: float | None, refinement_factor: float | None, expected: dict[str, tuple[float, float]]
) -> None:
    module = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("first", "fixed")})
    module["heads"] = nn.ModuleDict({"refinements": nn.Linear(2, 2)})
    module["fixed"].requires_grad_(False)
    settings = OptimizerSettings(learning_rate=1, weight_decay=0.1, bias_factor=bias_factor)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in make_optimizer(module, settings, refinement_factor).param_groups
        for name, parameter in module.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert set(found) == {
        f"{part}.{kind}" for part in ("first", "heads.refinements") for kind in ("weight", "bias")
    }
    assert {name: found[name] for name in expected} == expected


def edges(inclusive: Any) -> Any:
    return inclusive_to_edges(np.asarray(inclusive, np.float32).reshape(-1, 4))


def test_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["voc_proposal_filter"]
    boxes = edges(case["raw"])
    width, height = case["image_size"]
    assert first_of_duplicates(boxes, cell=1).tolist() == case["unique_index"]
    # Clipping removes boxes without extent there, which is a least side of 2 for integers.
    clipped = usable(boxes, height, width, MIST_COCO)
    np.testing.assert_array_equal(edges_to_inclusive(clipped), case["after_clip"])
    found = usable(boxes, height, width, MIST_VOC)
    np.testing.assert_array_equal(edges_to_inclusive(found), case["after_min20"])


@pytest.mark.parametrize(("side", "mist", "oicr"), [(19, False, False), (20, True, False), (21, True, True)])
def test_least_side(side: int, mist: bool, oicr: bool) -> None:
    boxes = np.asarray([[0, 0, side, 50], [0, 0, 50, side]], np.float32)
    assert (len(usable(boxes, 100, 100, MIST_VOC)) == 2) == mist
    assert (len(usable(boxes, 100, 100, OICR)) == 2) == oicr


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_nothing_left_gives_the_whole_image(n: int) -> None:
    tiny = np.tile(np.asarray([[3, 3, 5, 5]], np.float32), (n, 1))
    found = usable(tiny, 30, 40, MIST_VOC)
    assert found.tolist() == [[0, 0, 40, 30]]
    assert found.dtype == np.float32


def test_duplicates_beyond_a_thousand_pixels_are_told_apart() -> None:
    """The published hash gives (1000, 0, ...) and (0, 1, ...) the same number."""
    boxes = edges([[1000, 0, 1500, 900], [0, 1, 1500, 900], [1000, 0, 1500, 900]])
    assert first_of_duplicates(boxes, cell=1).tolist() == [0, 1]


def test_duplicates_of_a_cell() -> None:
    boxes = edges([[10, 10, 59, 59], [11, 9, 58, 57], [10, 10, 90, 59]])
    assert usable(boxes, 100, 100, OICR).tolist() == boxes[[0, 2]].tolist()
    assert usable(boxes, 100, 100, MIST_VOC).tolist() == boxes.tolist()


def test_a_box_clipped_away_is_dropped() -> None:
    boxes = np.asarray([[-50, 0, -10, 60], [90, 0, 300, 60]], np.float32)
    found = usable(boxes, 100, 120, MIST_VOC)
    assert found.tolist() == [[90, 0, 120, 60]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-20, 120, width=32)] * 4), max_size=25),
    st.sampled_from([MIST_VOC, MIST_COCO, OICR, ProposalSettings(min_side=0.5, cell=3)]),
)
def test_properties(rows: list[Any], rule: ProposalSettings) -> None:
    corners = np.asarray(rows, np.float32).reshape(-1, 2, 2)
    boxes = np.sort(corners, axis=1).reshape(-1, 4)
    found = usable(boxes, 80, 100, rule)
    assert len(found) >= 1
    assert (found >= 0).all() and (found <= [100, 80, 100, 80]).all()
    np.testing.assert_array_equal(usable(found, 80, 100, rule), found)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, [0, 1, 3]),
        ({"above": True}, [1, 3]),
        ({"cell": 8.0}, [0, 1]),
        ({"most": 2}, [0, 1]),
        ({"most": 1, "above": True}, [1]),
        ({"min_side": 0.0}, [0, 1, 2, 3]),
        ({"min_side": 90.0}, [None]),
    ],
)
def test_usable_proposals(changes: dict[str, Any], kept: list[int | None]) -> None:
    boxes = np.asarray(
        [[0, 0, 20, 40], [30, 10, 80, 60], [5, 5, 24, 60], [31, 10, 81, 60], [30, 10, 80, 60]], np.float32
    )
    whole = [0.0, 0.0, 82.0, 70.0]
    found = usable(boxes, 70, 82, ProposalSettings.model_validate(changes))
    assert found.tolist() == [whole if index is None else boxes[index].tolist() for index in kept]
    assert found.dtype == np.float32


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_there_is_always_a_usable_proposal(n: int) -> None:
    far = np.tile(np.asarray([[500, 500, 600, 600]], np.float32), (n, 1))
    assert usable(far, 70, 82, ProposalSettings()).tolist() == [[0, 0, 82, 70]]


def test_momentum_makes_it_gradient_descent() -> None:
    module, settings = nn.Linear(2, 2), OptimizerSettings(learning_rate=1, weight_decay=0.1, bias_factor=2)
    found = make_optimizer(module, settings, momentum=0.9)
    assert isinstance(found, torch.optim.SGD)
    assert [(group["lr"], group["momentum"]) for group in found.param_groups] == [(1, 0.9), (2, 0.9)]
    assert isinstance(make_optimizer(module, settings), torch.optim.Adam)
