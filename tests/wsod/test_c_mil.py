"""C-MIL against worked examples after both releases (oracle c_mil.json)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.wsod.test_losses import edges
from tests.wsod.vgg_helpers import HEADS, detector_of, sample

from weaksam_cli.wsod.c_mil import (
    CMil,
    Curve,
    MiningSettings,
    Rule,
    SubsetSettings,
    continuation,
    partition,
    pooled,
    reweighting_rate,
)
from weaksam_cli.wsod.losses import wsddn_scores
from weaksam_cli.wsod.method import Outputs, Regions
from weaksam_cli.wsod.mining import pairwise_iou

RULES: tuple[Rule, ...] = ("seed", "port", "torch7")
CURVES: dict[str, Curve] = {
    "Log": "log", "Linear": "linear", "Plinear": "plinear", "Sigmoid": "sigmoid", "Exp": "exp",
}  # fmt: skip
LEVELS = [0.0, 0.25, 0.5, 0.7, 0.95]
THRESHOLDS = ["released thresholds", "lambda thresholds, 0.5", "lambda thresholds, 1.0"]


@pytest.fixture
def published(oracle: Any) -> Any:
    return oracle("c_mil")


@pytest.mark.parametrize("name", CURVES)
def test_lambda(published: Any, name: str) -> None:
    case = published["lambda"]
    found = [continuation(done / case["T"], CURVES[name], case["T"]) for done in case["t"]]
    assert found == pytest.approx(case[name], abs=1e-6)


def subset_case(published: Any) -> tuple[torch.Tensor, torch.Tensor, Regions]:
    case = published["subsets"]
    labels = torch.tensor(case["image_labels"], dtype=torch.float32)
    return (
        torch.tensor(case["cls_logits"]),
        torch.tensor(case["det_logits"]),
        Regions(edges(case["boxes"]), labels),
    )


@pytest.mark.parametrize("lam", LEVELS)
def test_subsets(published: Any, lam: float) -> None:
    """Partitions by the three rules, merged logits, and both image losses."""
    assert [case["lam"] for case in published["subsets"]["cases"]] == LEVELS
    case = published["subsets"]["cases"][LEVELS.index(lam)]
    classes, detection, regions = subset_case(published)
    scores = wsddn_scores(classes, detection).amax(dim=1)
    torch.testing.assert_close(scores, torch.tensor(published["subsets"]["roi_score_for_sorting"]))
    for rule in RULES:
        found = CMil(subsets=SubsetSettings(rule=rule)).subset_of(scores, regions, lam)
        assert found.tolist() == case[rule]["subset_of_roi"], rule
        assert int(found.max()) + 1 == case[rule]["n_subsets"]
    port = CMil()
    subsets = port.subset_of(scores, regions, lam)
    merged = [pooled(item, subsets) for item in (classes, detection)]
    torch.testing.assert_close(merged[0], torch.tensor(case["merged_cls"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(merged[1], torch.tensor(case["merged_det"]), rtol=0, atol=1e-5)
    image = wsddn_scores(merged[0], merged[1]).sum(dim=0)
    torch.testing.assert_close(image, torch.tensor(case["image_score_bce_form"]), rtol=0, atol=1e-5)
    loss = port.image_loss(merged[0], merged[1], regions.image_labels)
    assert float(loss) == pytest.approx(case["loss_bce_mean"], abs=1e-5)
    assert float(loss) * 3 == pytest.approx(case["loss_bce_sum"], abs=1e-5)
    hinge = CMil(subsets=SubsetSettings(loss="hinge")).image_loss(merged[0], merged[1], regions.image_labels)
    assert float(hinge) == pytest.approx(case["loss_hinge_mean"], abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_chain(published: Any, rule: Rule) -> None:
    """The authors' rule lets a later subset take a member of an earlier one."""
    case = published["chain"]
    boxes = edges(case["boxes"])
    torch.testing.assert_close(pairwise_iou(boxes, boxes), torch.tensor(case["iou"]))
    method = CMil(subsets=SubsetSettings(rule=rule))
    found = method.subset_of(torch.tensor(case["scores"]), Regions(boxes, torch.ones(1)), case["lam"])
    assert found.tolist() == case[rule]


@pytest.mark.parametrize("rule", RULES)
def test_small(published: Any, rule: Rule) -> None:
    """R = 0, 1 and 2."""
    case, method = published["small"], CMil(subsets=SubsetSettings(rule=rule))

    def subsets(*boxes: tuple[int, ...]) -> list[int]:
        given = edges(np.asarray(boxes, np.float32).reshape(-1, 4))
        return method.subset_of(torch.ones(len(given)), Regions(given, torch.ones(1)), 0.5).tolist()

    near, far = ((10, 10, 59, 59), (12, 12, 61, 61)), ((10, 10, 59, 59), (150, 110, 199, 149))
    assert subsets() == []
    assert subsets(near[0]) == case["r1"]
    assert subsets(*far) == case["r2_far"]
    assert subsets(*near) == case["r2_near"]
    iou = pairwise_iou(edges([near[0]]), edges([near[1]]))
    assert float(iou) == pytest.approx(case["iou_r2_near"], abs=1e-5)


def background_first(rows: Any) -> torch.Tensor:
    """Logits of probabilities whose last column is background. Their rows sum to 1 up to 0.1 %."""
    return torch.tensor(rows).roll(1, dims=1).log()


@pytest.mark.parametrize("name", THRESHOLDS)
def test_detectors(published: Any, name: str) -> None:
    """Best boxes, labels and losses of both branches, by the authors' loss."""
    assert [case["name"] for case in published["detectors"]["cases"]] == THRESHOLDS
    case = published["detectors"]["cases"][THRESHOLDS.index(name)]
    classes, detection, regions = subset_case(published)
    lam = 0.0 if "released" in name else float(name.rsplit(maxsplit=1)[-1])
    method = CMil(mining=MiningSettings(weights="one", thresholds="moving" if lam else "fixed"))
    first = background_first(published["detectors"]["branch1_prob"])
    second = background_first(published["detectors"]["branch2_prob"])
    sources = wsddn_scores(classes, detection), first.exp()[:, 1:]
    for number, (source, logits) in enumerate(zip(sources, (first, second), strict=True), 1):
        learnt = method.labelled(source, torch.ones(3), regions, lam)
        expected = case[f"labels_branch{number}"]
        found = dict(zip(learnt.rows.tolist(), learnt.labels.tolist(), strict=True))
        assert [found.get(row) for row in range(len(expected))] == expected
        tops = [int(source[:, index].argmax()) for index in (0, 2)]
        assert tops == case[f"top_rois_branch{number}"]
        overlap = pairwise_iou(regions.boxes, regions.boxes[tops]).amax(dim=1)
        torch.testing.assert_close(overlap, torch.tensor(case[f"max_iou_branch{number}"]))
        excess = logits[learnt.rows].exp().sum(dim=1).log().mean()
        loss = float(method.branch_loss(logits, learnt) - excess)
        assert loss == pytest.approx(case[f"nll_branch{number}"], abs=2e-5)


def test_port_refinement(published: Any) -> None:
    """Weights are the image's scores of the subsets, for background, too."""
    case = published["port_refinement"]
    classes, detection, regions = subset_case(published)
    image = torch.tensor(published["subsets"]["cases"][LEVELS.index(0.5)]["image_score_bce_form"])
    method, logits = CMil(), background_first(published["detectors"]["branch1_prob"])
    learnt = method.labelled(wsddn_scores(classes, detection), image, regions, 0.5)
    found = dict(zip(learnt.rows.tolist(), learnt.labels.tolist(), strict=True))
    assert [found.get(row) for row in range(10)] == case["labels"]
    weights = torch.zeros(10).index_copy(0, learnt.rows, learnt.weights)
    torch.testing.assert_close(weights, torch.tensor(case["weights"]), rtol=0, atol=1e-5)
    excess = (learnt.weights * logits[learnt.rows].exp().sum(dim=1).log()).sum() / learnt.weights.sum()
    loss = float(method.branch_loss(logits, learnt) - excess)
    assert loss == pytest.approx(case["weighted_mean_nll_branch1"], abs=2e-5)


def test_reweight(published: Any) -> None:
    """What was meant; the authors' own epoch falls by one with every image, and nothing is left after a few."""
    case = published["reweight"]
    epoch, epochs = case["epoch"], 20
    for image, released, intended in zip(
        case["forward"], case["rate_released"], case["rate_intended"], strict=True
    ):
        assert reweighting_rate(epoch, epochs) == pytest.approx(intended)
        assert reweighting_rate(epoch - image + 1, epochs) == pytest.approx(released)
    assert reweighting_rate(1, epochs) == 0


@pytest.mark.parametrize("changes", [{"rings": 1.8}, {"reweight": True}, {"rings": 1.8, "reweight": True}])
def test_training_alone_sees_rings_and_weights(changes: Any) -> None:
    plain, changed = (
        detector_of(CMil(heads=HEADS, **settings), dropout=0.0) for settings in (dict[str, Any](), changes)
    )
    changed.load_state_dict(plain.state_dict())
    items = [sample(12), sample(5, present=(0, 2)), sample(0)]
    losses: list[Any] = []
    for detector in (plain, changed):
        torch.manual_seed(0)
        detector.progress = 0.9
        losses.append(detector.train()(items))
        assert all(torch.isfinite(value) for value in losses[-1].values())
    assert not torch.equal(losses[0]["loss_img"], losses[1]["loss_img"])
    answers: list[Any] = [detector.eval()(items) for detector in (plain, changed)]
    assert torch.equal(answers[0][0].scores, answers[1][0].scores)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("loss", ["bce", "hinge"])
def test_losses_of_few_proposals(count: int, loss: Any) -> None:
    method = CMil(subsets=SubsetSettings(loss=loss, top=2))
    generator = torch.Generator().manual_seed(count)
    first, second = (torch.randn(count, 2, generator=generator) for _ in range(2))
    outputs = Outputs(first, second, (torch.randn(count, 3, generator=generator),) * 2)
    low = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([low, low + 20], dim=1)
    for labels in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0)):
        found = method.losses(outputs, Regions(boxes, torch.tensor(labels), progress=0.5))
        assert all(torch.isfinite(value) for value in found.values())
        assert sum(labels) or not found["loss_ref_cls0"]


def test_many_are_drawn_from() -> None:
    mining = MiningSettings(positives=2, negatives=3, negative=(0, 0.4))
    boxes = torch.cat(
        [torch.tensor([[0.0, 0, 10, 10]]).repeat(5, 1), torch.tensor([[50.0, 0, 60, 10]]).repeat(9, 1)]
    )
    learnt = CMil(mining=mining).labelled(
        torch.ones(14, 1), torch.ones(1), Regions(boxes, torch.ones(1)), 0.5
    )
    assert sorted(learnt.labels.tolist()) == [-1, -1, -1, 0, 0]
    assert len(set(learnt.rows.tolist())) == 5


@pytest.mark.parametrize("rule", ["port", "torch7"])
def test_a_subset_spans_a_window_of_ranks(rule: Rule) -> None:
    """At lambda 0 all fit: the best forty, the next forty, and so on."""
    assert partition(np.ones((7, 7), bool), rule, 3).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert partition(np.ones((7, 7), bool), "seed", 3).tolist() == [0] * 7
    assert partition(np.ones((0, 0), bool), rule, 3).tolist() == []


@pytest.mark.parametrize(
    ("lam", "expected"), [(0.0, (1, 0, 0)), (0.5, (0.75, 0, 0.25)), (1.0, (0.5, 0, 0.5))]
)
def test_moving_thresholds(lam: float, expected: tuple[float, ...]) -> None:
    assert MiningSettings(thresholds="moving").bounds(lam) == expected
    assert MiningSettings().bounds(lam) == (0.6, 0.1, 0.4)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="two rising IoUs"):
        MiningSettings(negative=(0.5, 0.4))
