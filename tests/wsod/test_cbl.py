"""CBL: every case of its oracle, and its teacher."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.wsod.vgg_helpers import HEADS, detector_of, sample
from torch import Tensor, nn

from weaksam_cli.wsod.cbl import Cbl, RampSettings, TeacherSettings
from weaksam_cli.wsod.losses import OICR_EPSILON, box_regression_loss, encode, refinement_loss
from weaksam_cli.wsod.method import Regions
from weaksam_cli.wsod.mining import assign, multi_seed_pseudo_boxes, top_one_pseudo_boxes
from weaksam_cli.wsod.settings import HeadSettings
from weaksam_cli.wsod.teacher import Teacher, blend, following_rate, mean_classifier, ranking_loss
from weaksam_cli.wsod.teacher import test_scores as scores_at_test  # pytest would take it for a test

CLASSES = 20


def edges(inclusive: Any) -> Tensor:
    return torch.tensor(inclusive) + torch.tensor([0.0, 0, 1, 1])


def one_hot(classes: list[int], count: int = CLASSES) -> Tensor:
    return torch.zeros(count).index_fill(0, torch.tensor(classes), 1.0)


def spread(columns: Any, classes: list[int]) -> Tensor:
    """Columns (R, k) of some classes as (R, C)."""
    values = torch.tensor(columns)
    full = torch.zeros(len(values), CLASSES)
    full[:, classes] = values
    return full


@pytest.mark.parametrize("index", range(6))
def test_wema(oracle: Any, index: int) -> None:
    data = oracle("cbl")["wema"]
    case, given = (
        data["cases"][index],
        {k: [torch.tensor(v) for v in item] for k, item in data["input"].items()},
    )
    rate = following_rate(case["step"], 0.999)
    assert 1 - rate == pytest.approx(case["alpha"])
    blend(given["backbone_teacher"], given["backbone_student"], rate)
    layers = [SimpleNamespace(weight=w, bias=b) for w, b in (given[f"refine{i}"] for i in (1, 2, 3))]
    layers.append(SimpleNamespace(weight=given["rcnn_cls"][0], bias=given["rcnn_cls"][1]))
    heads: Any = SimpleNamespace(refinements=layers)
    blend(given["head_teacher"], mean_classifier(heads), rate)
    for name in ("backbone_teacher", "head_teacher"):
        for found, expected in zip(given[name], case[f"{name}_after"], strict=True):
            torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def test_schedules(oracle: Any) -> None:
    """Steps of 35000, of a ramp of 40000."""
    case, ramp = oracle("cbl")["schedules"], RampSettings()
    for step, fading, threshold in zip(case["steps"], case["lambda_img"], case["tau_crd"], strict=True):
        assert ramp.fading(step / 35000) == pytest.approx(fading, abs=1e-6)
        assert ramp.threshold(step / 35000) == pytest.approx(threshold, abs=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_oicr_top1(oracle: Any, index: int) -> None:
    case = oracle("cbl")["oicr_top1"]["cases"][index]
    boxes, source = edges(case["boxes"]), torch.tensor(case["source_prob_20"])
    regions = Regions(boxes, one_hot(case["positive_classes_0based"]))
    seeds = Cbl().seeds(source, regions)
    assert torch.equal(seeds.boxes, edges(case["gt_boxes"]))
    assert (seeds.classes + 1).tolist() == case["gt_classes"]
    assert seeds.scores.tolist() == pytest.approx(case["gt_scores"])
    mined = Cbl().mine(source, regions)
    assert (mined.labels + 1).tolist() == case["roi_label"]
    assert mined.weights.tolist() == pytest.approx(case["weight"])
    foreground = mined.labels >= 0
    assert foreground.float().tolist() == case["bbox_inside"]
    targets = encode(mined.matched, boxes)[foreground]
    torch.testing.assert_close(targets, torch.tensor(case["bbox_targets"])[foreground], atol=1e-4, rtol=1e-4)
    logits = torch.tensor(case["refine_prob_21"]).log()
    found = refinement_loss(logits, mined.labels, mined.weights, epsilon=OICR_EPSILON)
    assert float(found) == pytest.approx(case["refine_loss"], rel=1e-4)
    deltas = torch.tensor(case["bbox_pred_of_own_class"]).repeat(1, CLASSES + 1)
    assert float(box_regression_loss(deltas, boxes, mined)) == pytest.approx(case["reg_loss"], rel=1e-4)


@pytest.mark.parametrize("index", range(5))
def test_crd(oracle: Any, index: int) -> None:
    case = oracle("cbl")["crd"]["cases"][index]
    classes, boxes = case["positive_classes_0based"], edges(case["boxes"])
    teacher = spread(case["teacher_prob_of_positive_classes"], classes)
    scores = spread(case["mil_score_of_positive_classes"], classes).requires_grad_()
    labels, ramp = one_hot(classes), RampSettings()
    threshold = ramp.threshold(case["step"] / 35000)
    assert threshold == pytest.approx(case["tau"])
    near = assign(boxes, top_one_pseudo_boxes(teacher, boxes, labels), foreground_iou=threshold).labels
    for item in case["per_class"]:
        assert (near == item["class"]).nonzero().flatten().tolist() == item["members"]
    found = ranking_loss(scores, teacher, boxes, labels, threshold)
    assert float(found.detach()) == pytest.approx(case["sum"], abs=1e-6)
    share = 1 - ramp.fading(case["step"] / 35000)
    assert share * float(found.detach()) == pytest.approx(case["loss_times_one_minus_lambda"], abs=1e-6)
    found.backward()
    assert scores.grad is not None and bool(scores.grad.any()) == (case["sum"] > 0)


@pytest.mark.parametrize("index", range(3))
def test_msr(oracle: Any, index: int) -> None:
    case = oracle("cbl")["msr"]["cases"][index]
    classes, boxes = case["positive_classes_0based"], edges(case["boxes"])
    first, second, third, teacher = (spread(item, classes) for item in case["prob_of_positive_classes"])
    pseudo = multi_seed_pseudo_boxes(
        (third + teacher) / 2, [first, second], boxes, one_hot(classes), few="all"
    )
    assert torch.equal(pseudo.boxes, edges(case["gt_boxes"]))
    assert (pseudo.classes + 1).tolist() == case["gt_classes"]
    assert pseudo.scores.tolist() == pytest.approx(case["gt_scores"], rel=1e-5)
    mined = assign(boxes, pseudo, ignore_iou=0.1)
    assert (mined.labels + 1).tolist() == case["roi_label"]
    assert mined.weights.tolist() == pytest.approx(case["weight"], rel=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 19])
def test_of_few_proposals_the_best_is_taken(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    scores, low = torch.rand(n, 3, generator=generator), torch.rand(n, 2, generator=generator) * 50
    boxes = torch.cat([low, low + 20], dim=1)
    found = multi_seed_pseudo_boxes(scores, [scores], boxes, torch.tensor([1.0, 0, 1]))
    assert found.classes.tolist() == ([0, 2] if n else [])
    if n:
        assert found.scores.tolist() == pytest.approx((2 * scores.amax(dim=0))[[0, 2]].tolist())


def test_test_score(oracle: Any) -> None:
    case = oracle("cbl")["test_score"]
    found = scores_at_test(list(torch.tensor(case["refine1..3_and_cls"])), torch.tensor(case["teacher"]))
    torch.testing.assert_close(found, torch.tensor(case["score"]))


def test_the_teacher_becomes_the_student_at_first() -> None:
    """At a rate of 1 it is a copy, with the mean of the classifiers; it takes no gradient."""
    detector = detector_of(Cbl(heads=HEADS))
    teacher = detector.heads.get_submodule("teacher")
    assert isinstance(teacher, Teacher)
    for layer in detector.backbone.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    teacher.follow(detector, 1.0)
    for own, other in ((teacher.backbone, detector.backbone), (teacher.neck, detector.neck)):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), other.parameters(), strict=True))
    classifier: Any = teacher.classifier
    torch.testing.assert_close(classifier.weight, mean_classifier(detector.heads)[0])
    losses: Any = detector.train()([sample(7, present=(0, 2))])
    torch.stack(list(losses.values())).sum().backward()
    assert all(item.grad is None for item in teacher.parameters())


def test_the_last_branch_learns_from_several_boxes_in_the_end() -> None:
    detector = detector_of(Cbl(heads=HEADS, teacher=TeacherSettings(backbone=False))).train()
    found = []
    for detector.progress in (0.0, 0.39, 0.4, 0.9):
        torch.manual_seed(0)
        losses: Any = detector([sample(40, present=(0, 2))])
        found.append({name: float(value.detach()) for name, value in losses.items()})
    before, middle, after, _ = found
    assert before["loss_ref_cls3"] == middle["loss_ref_cls3"] != after["loss_ref_cls3"]
    assert after["loss_img"] == pytest.approx(0.65 * before["loss_img"])
    assert all(item["loss_ref_cls0"] == before["loss_ref_cls0"] for item in found)


def test_classifiers_of_different_features_have_no_mean() -> None:
    with pytest.raises(ValueError, match=r"heads\.shared: the teacher averages classifiers"):
        Cbl(heads=HeadSettings(hidden=8, shared=False))


def test_the_teacher_ranks_more_and_more() -> None:
    detector = detector_of(Cbl(heads=HEADS)).train()
    item = sample(6, present=(0, 2))
    item.regions.boxes[:] = torch.tensor([8.0, 8, 60, 50]) + torch.arange(6)[:, None]
    ranking = []
    for detector.progress in (0.0, 0.1, 0.2):
        torch.manual_seed(0)
        losses: Any = detector([item])
        ranking.append(float(losses["loss_ranking"].detach()))
    assert ranking[0] == 0 < ranking[1] and ranking[2] == pytest.approx(2 * ranking[1], rel=0.01)
