"""CASD: the cases of its oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.wsod.vgg_helpers import HEADS, detector_of, sample
from torch import Tensor

from weaksam_cli.wsod.attention import (
    Hiding,
    attention_maps,
    distillation,
    gradient_attention,
    inverted_attention,
    unmirrored,
)
from weaksam_cli.wsod.casd import Casd, DistillationSettings, GraphSettings, SeedSettings
from weaksam_cli.wsod.detector import Sample
from weaksam_cli.wsod.graph_seeds import drawn, graph_labels, graph_pseudo_boxes, hinge_loss, taught_loss
from weaksam_cli.wsod.method import Regions
from weaksam_cli.wsod.mining import assign
from weaksam_cli.wsod.rings import ring_pool, scaled

MIRRORED = (False, True, False, True)


def edges(inclusive: Any) -> Tensor:
    return torch.tensor(inclusive) + torch.tensor([0.0, 0, 1, 1])


def test_attention_map(oracle: Any) -> None:
    case = oracle("casd")["attention_map"]
    features = torch.tensor(case["roi_features_RCHW"])
    expected = {"release": "attention_RHW", "paper": "paper_variant_sigmoid_of_mean_RHW"}
    for form, name in expected.items():
        found = attention_maps(features, form)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor(case[name]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("form", "name"), [("paper", "paper"), ("release", "minmax")])
def test_worked_iw_lw(oracle: Any, form: Any, name: str) -> None:
    case = oracle("casd")["worked_iw_lw"]
    expected = case["result"][name]
    views = attention_maps(torch.tensor(case["view_features"]).flatten(0, 1), form)
    torch.testing.assert_close(
        views.unflatten(0, (4, 2)), torch.tensor(expected["view_attention"]), atol=1e-6, rtol=0
    )
    assert float(distillation(unmirrored(views, MIRRORED))) == pytest.approx(expected["loss_iw"], abs=1e-6)
    layers = [attention_maps(torch.tensor(item), form) for item in case["layer_features"]]
    torch.testing.assert_close(
        torch.stack(layers), torch.tensor(expected["layer_attention"]), atol=1e-6, rtol=0
    )
    assert float(distillation(layers)) == pytest.approx(expected["loss_lw"], abs=1e-6)


@pytest.mark.parametrize("index", range(4))
def test_losses(oracle: Any, index: int) -> None:
    """The released sum; whether it has the distillation depends on where the run was started."""
    data = oracle("casd")["losses"]
    case, count = data["cases"][index], data["R"]
    losses = case["losses"]
    labels = (torch.tensor(case["image_labels_pm1"]) > 0).float()
    mil = hinge_loss(torch.tensor(case["image_scores_4xC"]), labels)
    assert 4 * float(mil) == pytest.approx(losses["mil"], abs=1e-5)
    total, kept = mil, torch.zeros(2, 4 * count, dtype=torch.bool)
    for branch in (1, 2):
        own = torch.tensor(case[f"roi_onehot_{branch}"]).argmax(dim=1).repeat(4) - 1
        for view, rows in enumerate(case[f"keep_{branch}"]):
            kept[branch - 1, torch.tensor(rows) + view * count] = True
        found = taught_loss(torch.tensor(case[f"refine{branch}_logits"]), own, kept[branch - 1], 4)
        assert 0.4 * float(found) == pytest.approx(losses[f"refine_{branch}_times_0p1"], abs=1e-5)
        total = total + 0.1 * found
    features = torch.tensor(data["roi_features_4R_CHW"], requires_grad=True)
    if case["ca_iw_after"]:
        views = unmirrored(attention_maps(features, "release"), MIRRORED)
        rows = [kept[branch, :count] for branch in (0, 1)]
        consistency = torch.stack([distillation([view[own] for view in views]) for own in rows]).sum()
        consistency = consistency / rows[1].sum()  # a second division, which the paper does not have
        assert 0.1 * float(consistency.detach()) == pytest.approx(losses["consistency"] * 0.1, abs=1e-5)
        total = total + 0.1 * consistency / 4
        (0.1 * consistency / 4).backward()
        torch.testing.assert_close(
            features.grad, torch.tensor(case["grad_roi_features"]), atol=1e-6, rtol=1e-3
        )
    assert float(total.detach()) == pytest.approx(losses["total"], abs=1e-5)


@pytest.mark.parametrize("index", range(2))
def test_pseudo_gt(oracle: Any, index: int) -> None:
    data = oracle("casd")["pseudo_gt"]
    case, boxes = data["cases"][index], edges(data["boxes_xyxy"])
    present = torch.tensor(case["image_labels_pm1"]) > 0
    pseudo = graph_pseudo_boxes(torch.tensor(data["prob"]), boxes, present)
    assert torch.equal(pseudo.boxes, edges(case["gt_boxes"]))
    assert (pseudo.classes + 1).tolist() == case["gt_classes"]
    assert pseudo.scores.tolist() == pytest.approx(case["gt_scores"])
    labels, taught = graph_labels(boxes, pseudo)
    assert (labels >= 0).nonzero().flatten().tolist() == case["foreground"]
    assert (taught & (labels < 0)).nonzero().flatten().tolist() == case["background"]
    assert (~taught).nonzero().flatten().tolist() == case["ignored"]
    assert (labels[labels >= 0] + 1).tolist() == [case["assigned_class"][row] for row in case["foreground"]]


def test_refine_supervision(oracle: Any) -> None:
    data = oracle("casd")
    case, given = data["refine_supervision"], data["pseudo_gt"]
    boxes = edges(given["boxes_xyxy"])
    pseudo = graph_pseudo_boxes(torch.tensor(given["prob"]), boxes, torch.tensor([True, False, True]))
    labels, taught = graph_labels(boxes, pseudo)
    assert F.one_hot(labels + 1, 4).tolist() == case["roi_onehot"]
    for rows, foreground, background in zip(case["keep_as_sets"], case["n_fg"], case["n_bg"], strict=True):
        kept = drawn(labels, taught, 32, 96)
        assert kept.nonzero().flatten().tolist() == rows
        assert (int((kept & (labels >= 0)).sum()), int((kept & (labels < 0)).sum())) == (
            foreground,
            background,
        )
    few = drawn(labels, taught, 3, 2)
    assert (int((few & (labels >= 0)).sum()), int((few & (labels < 0)).sum())) == (3, 2)


def test_tiny_n(oracle: Any) -> None:
    """Where the published code fails, the best proposal is the seed, and without a class there is none."""
    data = oracle("casd")
    boxes, scores = edges(data["pseudo_gt"]["boxes_xyxy"]), torch.tensor(data["pseudo_gt"]["prob"])
    present = torch.tensor([True, False, False])
    for case in data["tiny_n"]["results"]:
        count = case["n"] if isinstance(case["n"], int) else len(boxes)
        shown = present if isinstance(case["n"], int) else torch.zeros(3, dtype=torch.bool)
        found = graph_pseudo_boxes(scores[:count], boxes[:count], shown)
        if "gt_boxes" in case:
            assert torch.equal(found.boxes, edges(case["gt_boxes"]))
            assert found.scores.tolist() == pytest.approx(case["gt_scores"])
        else:
            assert "ValueError" in case["error"] and len(found) == int(shown.any())
    assert len(graph_pseudo_boxes(scores[:0], boxes[:0], present)) == 0


def test_may30_regression(oracle: Any) -> None:
    """Each foreground proposal is drawn to the mean of those around its seed, in every view."""
    case, given = oracle("casd")["may30_regression"], oracle("casd")["pseudo_gt"]
    plain = torch.tensor(given["boxes_xyxy"])
    views = []
    for scale in case["scales"]:
        seen = plain * scale
        right = case["image_width"] * scale
        flipped = torch.stack([right - seen[:, 2], seen[:, 1], right - seen[:, 0], seen[:, 3]], dim=1)
        views += [edges(seen.tolist()), edges(flipped.tolist())]
    regions = Regions(views[0], torch.tensor([1.0, 0, 1]), mirrored=MIRRORED)
    pseudo = graph_pseudo_boxes(torch.tensor(given["prob"]), views[0], regions.image_labels)
    method = Casd(mining=SeedSettings(graph=GraphSettings()), regression=True)
    found = method.targets(assign(views[0], pseudo).matched, regions, views).unflatten(0, (4, -1))
    for view, rows, expected in zip(
        found, case["foreground_sorted"], case["targets_sorted_by_foreground"], strict=True
    ):
        torch.testing.assert_close(view[rows], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["roi", "context", "frame"])
def test_rectangular_ring(oracle: Any, name: str) -> None:
    """The boxes of each ring, and what is pooled from it, cell by cell."""
    case = oracle("casd")["rectangular_ring"]
    ring, rois = case["rings"][name], torch.tensor(case["rois_bxyxy"])[:, 1:]
    outer, inner = (scaled(rois, ring[side]) for side in ("outer", "inner"))
    if not ring["inner"]:
        inner = torch.zeros_like(rois)
    expected = torch.tensor(ring["processed"])[:, 1:]
    torch.testing.assert_close(torch.cat([outer, inner], dim=1), expected, atol=1e-4, rtol=0)
    features = torch.randn(2, 3, 9, 13, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = ring_pool(features, [outer, outer[:1]], [inner, inner[:1]], 16)
    for row, (image, o, i) in enumerate(
        [(0, outer[0], inner[0]), (0, outer[1], inner[1]), (1, outer[0], inner[0])]
    ):
        torch.testing.assert_close(found[row], by_cells(features[image], o, i))
    found.square().sum().backward()
    assert features.grad is not None and bool(features.grad.any())
    assert ring_pool(features, [rois[:0]] * 2, [rois[:0]] * 2).shape == (0, 3, 7, 7)


def by_cells(features: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Ring pooling of one box at a stride of 16, as it is defined."""
    x0, y0, x1, y1 = (int(value / 16) for value in outer.tolist())
    left, top, right, bottom = (int(value / 16) for value in inner.tolist())
    found = torch.zeros(3, 7, 7)
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    for v in range(7):
        for u in range(7):
            for y in range(y0 + v * height // 7, y0 - (-(v + 1) * height // 7)):
                for x in range(x0 + u * width // 7, x0 - (-(u + 1) * width // 7)):
                    shown = 0 <= y < features.shape[1] and 0 <= x < features.shape[2]
                    if shown and not (left < x < right and top < y < bottom):
                        found[:, v, u] = torch.maximum(found[:, v, u], features[:, y, x])
    return found


def test_inverted_attention(oracle: Any) -> None:
    case = oracle("casd")["inverted_attention"]
    features, labels = torch.tensor(case["roi_features"]), torch.tensor(case["labels"])
    weight, own = torch.tensor(case["fc_weight"]), torch.tensor(case["refine_weight"])

    def logits(x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x.flatten(1), weight)), own, torch.tensor(case["refine_bias"]))

    found = gradient_attention(features, logits, labels)
    torch.testing.assert_close(found, torch.tensor(case["gradient_attention"]), atol=1e-5, rtol=1e-4)
    kept = torch.zeros(len(labels), dtype=torch.bool)
    kept[case["keep"]] = True
    in_order = torch.linspace(0.9, 0.1, 49).expand(len(labels), 49)
    for step, hiding in (("1000", Hiding(25, 16, 6, 18)), ("60001", Hiding(29, 20, 5, 15))):
        masks = inverted_attention(features, logits, labels, kept, hiding, in_order)
        assert masks[:, 0].tolist() == case["keep_mask_by_step"][step]
    nothing = inverted_attention(features, logits, labels * 0, kept, Hiding(25, 16, 6, 18), in_order)
    assert bool(nothing.all())


def test_rampweight(oracle: Any) -> None:
    """Only whether there is a distillation; the weight that the release computes is never multiplied in."""
    settings = Casd()
    for step, weight, _ in oracle("casd")["rampweight"]["iteration_weight_caiw"]:
        if step <= 100_000:
            assert (settings.distilled(step / 100_000) is not None) == bool(weight)
    assert Casd(distillation=None).distilled(0.9) is None


PAPER = Casd(heads=HEADS, mining=SeedSettings(branch_weights=(1.0, 1.0)))
RELEASE = Casd(
    heads=HEADS,
    mining=SeedSettings(branch_weights=(0.1, 0.1), graph=GraphSettings()),
    image_loss="hinge",
    rings=1.8,
    regression=True,
    distillation=DistillationSettings(attention="release", layers=False, divide="release"),
)


def in_views(n: int, present: tuple[int, ...]) -> Sample:
    """An image in four views; the second size is the first one, seen through noise."""
    views = []
    for mirrored in MIRRORED:
        view = sample(n, present=present)
        if mirrored:
            pixels, boxes = view.input.flip(2), view.regions.boxes.clone()
            boxes[:, [0, 2]] = 96 - boxes[:, [2, 0]]
            view = Sample(pixels, replace(view.regions, boxes=boxes, mirrored=(True,)))
        views.append(view)
    return Sample(views[0].input, replace(views[0].regions, mirrored=MIRRORED), tuple(views[1:]))


@pytest.mark.parametrize("method", [PAPER, RELEASE], ids=["paper", "release"])
@pytest.mark.parametrize("present", [(), (1,), (0, 2)])
@pytest.mark.parametrize("counts", [(0,), (1,), (2,), (12,), (7, 0, 2)])
def test_four_views(method: Casd, counts: tuple[int, ...], present: tuple[int, ...]) -> None:
    detector = detector_of(method).train()
    for detector.progress in (0.0, 0.9):
        losses: Any = detector([in_views(n, present) for n in counts])
        names = {"loss_img", "loss_ref_cls0", "loss_ref_cls1"} | (
            {"loss_distil"} if detector.progress else set()
        )
        if method.regression:
            names |= {"loss_ref_reg0", "loss_ref_reg1"}
        assert set(losses) == names and all(torch.isfinite(value) for value in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        gradients = [item.grad for item in detector.parameters() if item.grad is not None]
        assert all(torch.isfinite(value).all() for value in gradients)
    taught = bool(present) and any(counts)
    assert (float(losses["loss_ref_cls0"].detach()) > 0) == taught
    assert (float(losses["loss_distil"].detach()) > 0) == taught
    if method.regression:
        assert (float(losses["loss_ref_reg0"].detach()) > 0) == taught
    assert detector.training and detector.neck.training and detector.heads.training


def test_equal_views_agree() -> None:
    method = PAPER.model_copy(update={"distillation": DistillationSettings(layers=False)})
    detector, losses = detector_of(method).train(), []
    detector.progress = 0.9
    item, other = sample(12), sample(12)
    for views in ((item, item), (item, replace(other, input=-other.input))):
        first = replace(item.regions, mirrored=(False, False))
        found: Any = detector([Sample(item.input, first, views[1:])])
        losses.append(float(found["loss_distil"].detach()))
    assert losses[0] == pytest.approx(0, abs=1e-9) and losses[1] > 1e-4


def test_the_whole_oracle_is_met(oracle: Any) -> None:
    data = oracle("casd")
    named = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {name for name in data if isinstance(data[name], dict)} <= named
