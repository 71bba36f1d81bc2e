"""RoI drop against the losses of the published implementation (spec 06 A.2), and its properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.retrain.helpers import VALUES
from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.retrain import mask_rcnn
from weaksam_cli.retrain.detector import detectron_config
from weaksam_cli.retrain.heads import (
    Dropped,
    Top3Matcher,
    find_dropped,
    reduce_losses,
)
from weaksam_cli.retrain.rcnn import RoiDrop

SEMANTICS = ("intersection", "separate", "union_fg")


@pytest.fixture(scope="module")
def cases(oracle: Any) -> Any:
    return oracle("roi_drop")


def per_roi(cases: Any) -> tuple[Tensor, Tensor, Tensor]:
    values = cases["per_roi"]
    return (
        torch.tensor(values["cls_loss"]),
        torch.tensor(values["reg_loss_sum4"]),
        torch.tensor(values["fg_indices"]),
    )


def layers(inputs: Any, roi_drop: RoiDrop) -> Any:
    """The output layers of the oracle's detector."""
    import_detectron2()
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform

    from weaksam_cli.retrain.heads import RoiDropOutputLayers

    return RoiDropOutputLayers(
        ShapeSpec(channels=2),
        box2box_transform=Box2BoxTransform(weights=inputs["box_reg_weights"]),
        num_classes=inputs["num_classes"],
        smooth_l1_beta=inputs["smooth_l1_beta"],
        roi_drop=roi_drop,
    )


def proposals(inputs: Any, images: int) -> list[Any]:
    from detectron2.structures import Boxes, Instances

    boxes, truths = torch.tensor(inputs["proposal_boxes"]), torch.tensor(inputs["gt_boxes"])
    classes = torch.tensor(inputs["gt_classes"])
    found, first = [], 0
    for count in inputs["rois_per_image"][:images]:
        part = slice(first, first + count)
        item = Instances((200, 200))
        item.proposal_boxes, item.gt_boxes, item.gt_classes = (
            Boxes(boxes[part]),
            Boxes(truths[part]),
            classes[part],
        )
        found.append(item)
        first += count
    return found


def _no_proposals() -> Any:
    from detectron2.structures import Boxes, Instances

    item = Instances((200, 200))
    item.proposal_boxes = item.gt_boxes = Boxes(torch.zeros(0, 4))
    item.gt_classes = torch.zeros(0, dtype=torch.int64)
    return item


def losses(
    inputs: Any,
    drop: RoiDrop,
    iteration: int,
    images: int = 2,
    deltas: Tensor | None = None,
    predictor: Any = None,
) -> dict[str, float]:
    predictor = layers(inputs, drop) if predictor is None else predictor
    from detectron2.utils.events import EventStorage

    items = proposals(inputs, images)
    rois = sum(len(item) for item in items)
    logits = torch.tensor(inputs["class_logits"])[:rois]
    deltas = torch.tensor(inputs["box_deltas_class_major"])[:rois] if deltas is None else deltas
    with EventStorage(iteration):
        return {name: float(value) for name, value in predictor.losses((logits, deltas), items).items()}


def settings_of(case: Any, **changes: Any) -> RoiDrop:
    known = {"start_iteration": 0, "tau_cls": case["threshold_cls"], "tau_reg": case["threshold_reg"]}
    return RoiDrop.model_validate(known | changes)


def approx(value: float) -> Any:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


# pure functions against the published losses of each RoI


@pytest.mark.parametrize(
    ("case", "semantics"),
    [
        *(("drop_on", name) for name in SEMANTICS),
        ("drop_on_second_image_hit", "intersection"),
        ("drop_on_second_image_hit", "separate"),
    ],
)
def test_masks_and_sums(cases: Any, case: str, semantics: str) -> None:
    expected = cases[case]["semantics"][semantics]
    cross_entropy, distances, foreground = per_roi(cases)
    drop = settings_of(cases[case], semantics=semantics)
    dropped = find_dropped(cross_entropy, distances, foreground, drop)
    assert dropped.classification.nonzero().flatten().tolist() == expected["dropped_cls"]
    assert foreground[dropped.regression].tolist() == expected["dropped_reg"]
    loss_cls, loss_reg = reduce_losses(cross_entropy, distances, dropped, divide_regression=True)
    assert float(loss_cls) == approx(expected["loss_cls"])
    assert float(loss_reg) == approx(expected["loss_box_reg_over_R"])
    assert float(reduce_losses(cross_entropy, distances, dropped, divide_regression=False)[1]) == approx(
        expected["loss_box_reg_sum"]
    )


def test_one_image(cases: Any) -> None:
    cross_entropy, distances, foreground = per_roi(cases)
    expected, case = cases["drop_on"]["one_image_semantics"], cases["drop_on"]
    dropped = find_dropped(cross_entropy[:5], distances[:3], foreground[:3], settings_of(case))
    loss_cls, loss_reg = reduce_losses(cross_entropy[:5], distances[:3], dropped, divide_regression=True)
    assert float(loss_cls) == approx(expected["loss_cls"])
    assert float(loss_reg) == approx(expected["loss_box_reg_over_R"])


# the whole predictor from logits, deltas and boxes


def test_off_equals_the_published_losses(cases: Any) -> None:
    expected = cases["drop_off"]
    for drop, iteration in [
        (RoiDrop(enabled=False, start_iteration=0), 10**6),
        (settings_of(cases["drop_on"], start_iteration=2000), 0),
        (settings_of(cases["drop_on"], start_iteration=2000), 1999),
    ]:
        got = losses(cases["inputs"], drop, iteration)
        assert got["loss_cls"] == approx(expected["loss_cls"])
        assert got["loss_box_reg"] == approx(expected["loss_box_reg"])


@pytest.mark.parametrize("enabled", [False, True])
def test_boxes_without_classes_are_those_that_all_classes_share(cases: Any, enabled: bool) -> None:
    inputs, drop = cases["inputs"], settings_of(cases["drop_on"], enabled=enabled)
    shared = torch.tensor(inputs["box_deltas_class_major"])[:, :4]
    by_class = shared.repeat(1, inputs["num_classes"])
    assert losses(inputs, drop, 0, deltas=shared) == losses(inputs, drop, 0, deltas=by_class)


@pytest.mark.parametrize("width", [4, 8])
def test_no_region_at_all(cases: Any, width: int) -> None:
    from detectron2.utils.events import EventStorage

    predictor = layers({**cases["inputs"], "num_classes": 2}, RoiDrop(enabled=False))
    with EventStorage(0):
        found = predictor.losses((torch.zeros(0, 3), torch.zeros(0, width)), [_no_proposals()])
    assert [float(value) for value in found.values()] == [0.0, 0.0]


@pytest.mark.parametrize("iteration", [2000, 2001, 9000])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_on_from_the_start_iteration(cases: Any, iteration: int, semantics: str) -> None:
    expected = cases["drop_on"]["semantics"][semantics]
    drop = settings_of(cases["drop_on"], start_iteration=2000, semantics=semantics)
    got = losses(cases["inputs"], drop, iteration)
    assert got["loss_cls"] == approx(expected["loss_cls"])
    assert got["loss_box_reg"] == approx(expected["loss_box_reg_over_R"])


@pytest.mark.parametrize("case", ["drop_on", "drop_on_second_image_hit"])
def test_the_box_head_of_mask_rcnn_drops_the_same(cases: Any, case: str) -> None:
    from detectron2.modeling import build_model

    inputs = cases["inputs"]
    for semantics, expected in cases[case]["semantics"].items():
        drop = settings_of(cases[case], semantics=semantics)
        values = {key: value for key, value in VALUES.items() if key != "inference"}
        wanted = mask_rcnn.ModelSettings.model_validate(values | {"roi_drop": drop})
        model: Any = build_model(detectron_config(wanted, inputs["num_classes"], "cpu"))
        assert model.roi_heads.mask_on
        got = losses(inputs, drop, 0, predictor=model.roi_heads.box_predictor)
        assert got["loss_cls"] == approx(expected["loss_cls"])
        assert got["loss_box_reg"] == approx(expected["loss_box_reg_over_R"])


def test_released_sum(cases: Any) -> None:
    """What the published code gives once its concatenation of a tensor and a tuple is repaired."""
    case = cases["drop_on"]
    drop = settings_of(case, normalisation="released_sum")
    for images, key in [(2, "tuple_index_fixed_two_images"), (1, "tuple_index_fixed_one_image")]:
        got = losses(cases["inputs"], drop, 0, images)
        assert got["loss_cls"] == approx(case[key]["losses"]["loss_cls"])
        assert got["loss_box_reg"] == approx(case[key]["losses"]["loss_box_reg"])


def test_hit_in_the_second_image_does_not_fail(cases: Any) -> None:
    """The published code raises IndexError here: it uses RoI numbers as positions among the foreground RoIs."""
    case = cases["drop_on_second_image_hit"]
    got = losses(cases["inputs"], settings_of(case), 0)
    assert "IndexError" in case["tuple_index_fixed"]["error"]
    assert got["loss_cls"] == approx(case["semantics"]["intersection"]["loss_cls"])
    assert got["loss_box_reg"] == approx(case["semantics"]["intersection"]["loss_box_reg_over_R"])


@pytest.mark.parametrize(("normalisation", "scale"), [("released_sum", 1), ("over_R", 9)])
def test_nothing_exceeds(cases: Any, normalisation: str, scale: int) -> None:
    case = cases["drop_on_nothing_exceeds"]
    drop = settings_of(case, normalisation=normalisation)
    got = losses(cases["inputs"], drop, 0)
    assert got["loss_cls"] == approx(case["tuple_index_fixed"]["losses"]["loss_cls"])
    assert got["loss_box_reg"] == approx(case["tuple_index_fixed"]["losses"]["loss_box_reg"] / scale)


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("start", [0, 10])
def test_no_foreground(cases: Any, semantics: str, start: int) -> None:
    logits = torch.tensor(cases["no_foreground"]["class_logits"])
    drop = RoiDrop.model_validate(
        {"tau_cls": 100, "tau_reg": 100, "start_iteration": start, "semantics": semantics}
    )
    predictor = layers(cases["inputs"], drop)
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    item = Instances((200, 200))  # an image without objects has no gt_boxes
    item.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2))
    item.gt_classes = torch.full((2,), 3)
    deltas = torch.zeros(2, 12, requires_grad=True)
    with EventStorage(0):
        got = predictor.losses((logits, deltas), [item])
    assert float(got["loss_cls"]) == approx(cases["no_foreground"]["drop_off"]["loss_cls"])
    assert float(got["loss_box_reg"].detach()) == 0.0
    got["loss_box_reg"].backward()


def test_the_proposal_network_does_not_drop(cases: Any) -> None:
    """The published code passes thresholds down to the proposal network, which ignores them; here there are none."""
    assert cases["rpn_drop"]["loss_without"] == cases["rpn_drop"]["loss_with"]
    assert not [name for name in RoiDrop.model_fields if "rpn" in name]


# properties


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rois=st.sampled_from([0, 1, 2, 6, 7, 20]))
def test_properties(data: st.DataObject, rois: int) -> None:
    numbers = st.floats(0, 8, width=32)
    cross_entropy = torch.tensor(data.draw(st.lists(numbers, min_size=rois, max_size=rois)))
    classes = torch.tensor(
        data.draw(st.lists(st.integers(0, 3), min_size=rois, max_size=rois)), dtype=torch.int64
    )
    foreground = torch.nonzero(classes < 3).flatten()
    count = len(foreground)
    distances = torch.tensor(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    drops = {
        name: find_dropped(cross_entropy, distances, foreground, RoiDrop.model_validate({"semantics": name}))
        for name in SEMANTICS
    }
    both, either = drops["intersection"], drops["union_fg"]
    for dropped in (both, either):  # the two losses of a RoI go together, background stays
        assert torch.equal(dropped.classification[foreground], dropped.regression)
        assert int(dropped.classification.sum()) == int(dropped.regression.sum())
    assert bool((either.regression >= both.regression).all())
    assert bool((drops["separate"].regression >= both.regression).all())
    full = reduce_losses(cross_entropy, distances, None, divide_regression=True)
    for dropped in drops.values():
        part = reduce_losses(cross_entropy, distances, dropped, divide_regression=True)
        assert part[0] <= full[0] + 1e-6
        assert part[1] <= full[1] + 1e-6


def test_thresholds_are_strict() -> None:
    drop = RoiDrop(tau_cls=4.0, tau_reg=1.0, semantics="union_fg")
    dropped = find_dropped(torch.tensor([4.0, 4.1]), torch.tensor([1.0, 1.1]), torch.tensor([0, 1]), drop)
    assert dropped.classification.tolist() == [False, True]


def test_dropped_terms_have_no_gradient() -> None:
    cross_entropy = torch.tensor([5.0, 1.0], requires_grad=True)
    distances = torch.tensor([2.0], requires_grad=True)
    dropped = Dropped(torch.tensor([True, False]), torch.tensor([True]))
    loss_cls, loss_reg = reduce_losses(cross_entropy, distances, dropped, divide_regression=True)
    (loss_cls + loss_reg).backward()
    assert cross_entropy.grad is not None
    assert cross_entropy.grad.tolist() == [0.0, 0.5]
    assert distances.grad is not None
    assert distances.grad.tolist() == [0.0]


# the top-3 matcher, beside detectron2's


def test_equals_the_published_matcher(oracle: Any) -> None:
    case = oracle("roi_drop")["matcher_topk"]
    matches, labels = Top3Matcher(0.5)(torch.tensor(case["iou_gt_by_proposal"]))
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
    matches, labels = Top3Matcher(0.5)(torch.tensor(case["iou"]))
    assert matches.tolist() == [0, 0]
    assert labels.tolist() == [1, 1]


@pytest.mark.parametrize(("truths", "proposals"), [(0, 0), (0, 1), (0, 7), (1, 0), (2, 0)])
def test_nothing_to_match(truths: int, proposals: int) -> None:
    matches, labels = Top3Matcher(0.5)(torch.zeros(truths, proposals))
    assert matches.tolist() == [0] * proposals
    assert labels.tolist() == [0] * proposals


def test_equal_overlaps_keep_their_order() -> None:
    quality = torch.full((1, 6), 0.8)
    assert Top3Matcher(0.5)(quality)[1].tolist() == [1, 1, 1, 0, 0, 0]


def test_below_the_threshold_is_background() -> None:
    assert Top3Matcher(0.5)(torch.tensor([[0.49, 0.5, 0.1]]))[1].tolist() == [0, 1, 0]
