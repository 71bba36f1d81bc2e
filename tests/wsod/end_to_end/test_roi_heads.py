from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.wsod.end_to_end.vgg_helpers import CLASSES, NARROW, boxes_in, enliven, mist, oicr, sample
from torch import Tensor

from weaksam_cli.models.vgg16 import Vgg16Shape
from weaksam_cli.wsod.end_to_end.recipe import MistMiningSettings, MistRecipe, OicrMiningSettings, OicrRecipe
from weaksam_cli.wsod.end_to_end.roi_heads import VggWeakRoiHeads, pool_rois
from weaksam_cli.wsod.objectives import HeadOutputs, mean_losses


def heads_of(recipe: MistRecipe | OicrRecipe, shape: Vgg16Shape = NARROW) -> VggWeakRoiHeads:
    torch.manual_seed(0)
    return VggWeakRoiHeads(recipe, CLASSES, shape)


def fill(layer: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)


def pool_by_hand(features: Tensor, box: list[float]) -> Tensor:
    """RoIPool of Fast R-CNN over one RoI: inclusive indexes, rounded half up to cells, both ends in."""
    left, top = (math.floor(value / 8 + 0.5) for value in box[:2])
    right, bottom = (math.floor((value - 1) / 8 + 0.5) for value in box[2:])
    height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
    found = torch.zeros(features.shape[0], 7, 7)
    for row in range(7):
        rows = range(top + row * height // 7, top - (-(row + 1) * height // 7))
        for column in range(7):
            columns = range(left + column * width // 7, left - (-(column + 1) * width // 7))
            inside = [
                features[:, y, x]
                for y in rows
                for x in columns
                if y < features.shape[1] and x < features.shape[2]
            ]
            if inside:
                found[:, row, column] = torch.stack(inside).amax(dim=0)
    return found


def test_rois_are_pooled_as_published() -> None:
    features = torch.randn(2, 3, 9, 13, generator=torch.Generator().manual_seed(0))
    boxes = [boxes_in(6, 72, 104), torch.tensor([[0.0, 0, 104, 72], [96, 64, 110, 80], [8, 8, 8, 8]])]
    found = pool_rois(features, boxes)
    places = [(index, box) for index, item in enumerate(boxes) for box in item.tolist()]
    expected = torch.stack([pool_by_hand(features[index], box) for index, box in places])
    assert torch.equal(found, expected)


def test_pixel_edges_become_inclusive_indexes() -> None:
    """A box that ends at pixel 11 (edge 12) ends in the second cell, not in the third."""
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 2, :] = 1
    assert not pool_rois(features, [torch.tensor([[0.0, 0, 12, 12]])]).any()
    assert pool_rois(features, [torch.tensor([[0.0, 0, 12, 13]])]).any()


def test_the_published_oicr_head(oracle: Any) -> None:
    """The oracle's RoIs have 2 x 2 cells: they stand in a corner of ours, the other cells have weight 0."""
    case = oracle("oicr_wsod2")["head_forward"]
    state = {name: torch.tensor(value) for name, value in case["state"].items()}
    heads = heads_of(oicr(), Vgg16Shape(widths=(1, 1, 1, 1, 3), hidden=5)).eval()
    spread = torch.zeros(5, 3, 7, 7)
    spread[:, :, :2, :2] = state["fc1.weight"].view(5, 3, 2, 2)
    fill(heads.neck.fc6, spread.flatten(1), state["fc1.bias"])
    named = {"fc2": heads.neck.fc7, "fc_cls1": heads.classification, "fc_cls2": heads.detection}
    named |= {f"fc_refine{index + 1}": branch for index, branch in enumerate(heads.refinements)}
    for name, layer in named.items():
        fill(layer, state[f"{name}.weight"], state[f"{name}.bias"])
    pooled = torch.full((4, 3, 7, 7), 9.0)
    pooled[:, :, :2, :2] = torch.tensor(case["x"])
    outputs = heads.outputs(pooled)
    scores = outputs.class_logits.softmax(dim=1) * outputs.detection_logits.softmax(dim=0)
    torch.testing.assert_close(scores, torch.tensor(case["cls"]))
    for index, logits in enumerate(outputs.refinement_logits):
        torch.testing.assert_close(logits.softmax(dim=1), torch.tensor(case[f"refine{index + 1}"]))
    assert not outputs.deltas


def one_hot_heads(case: dict[str, Any], recipe: MistRecipe) -> tuple[VggWeakRoiHeads, Tensor]:
    """Heads and pooled RoIs that give the oracle's outputs: each RoI is one feature, whose weights are its outputs."""
    count = sum(case["n_rois"])
    heads = heads_of(recipe, Vgg16Shape(widths=(1, 1, 1, 1, 1), hidden=count))
    pooled = torch.eye(count, 49)
    fill(heads.neck.fc6, torch.eye(count, 49))
    fill(heads.neck.fc7, torch.eye(count))
    fill(heads.classification, torch.tensor(case["class_logits"]).T)
    fill(heads.detection, torch.tensor(case["det_logits"]).T)
    for index in range(3):
        fill(heads.refinements[index], torch.tensor(case["ref_logits"][index]).T)
        fill(heads.regressions[index], torch.tensor(case["bbox_preds"][index]).T)
    return heads, pooled.view(count, 1, 7, 7)


def test_the_published_mist_losses(oracle: Any) -> None:
    """The oracle's boxes are inclusive indexes counted with +1; as pixel edges they give the same losses."""
    case = oracle("mist_wetectron")["roi_reg_loss"]
    heads, pooled = one_hot_heads(case, mist(dropout=0))
    outputs = heads.outputs(pooled)
    losses, start = [], 0
    for boxes, present in zip(case["boxes"], case["image_labels"], strict=True):
        rows = slice(start, start + len(boxes))
        start = rows.stop
        own = HeadOutputs(
            outputs.class_logits[rows],
            outputs.detection_logits[rows],
            [logits[rows] for logits in outputs.refinement_logits],
            [values[rows] for values in outputs.deltas],
        )
        labels = torch.zeros(CLASSES).index_fill(0, torch.tensor(present) - 1, 1.0)
        edges = torch.tensor(boxes) + torch.tensor([0.0, 0, 1, 1])
        losses.append(heads.image_losses(own, edges, labels))
    found = mean_losses(losses)
    assert set(found) == set(case["losses"])
    for name, value in case["losses"].items():
        assert float(found[name].detach()) == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        (mist(), MistMiningSettings(share=0.9)),
        (mist(), MistMiningSettings(share=0.5, overlap=0.9)),
        (mist(), MistMiningSettings(foreground_iou=0.9)),
        (mist(), MistMiningSettings(branch_weights=(1.0, 1.0, 1.0))),
        (oicr(), OicrMiningSettings(ratio=0.1)),
        (oicr(), OicrMiningSettings(ratio=0.5, nms=0.01)),
        (oicr(), OicrMiningSettings(ratio=0.5, class_wise=True)),
        (oicr(), OicrMiningSettings(foreground_iou=0.9)),
        (oicr(), OicrMiningSettings(branch_weights=(3.0, 1.0, 1.0))),
    ],
)
def test_the_recipe_decides_the_mining(recipe: MistRecipe | OicrRecipe, change: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    pooled = torch.randn(40, 8, 7, 7, generator=generator)
    boxes, labels = boxes_in(40, 64, 96), torch.tensor([1.0, 0, 1.0])

    def total(settings: Any) -> float:
        network = recipe.network.model_copy(update={"initial_deviation": 0.3})
        heads = heads_of(recipe.model_copy(update={"mining": settings, "network": network})).eval()
        enliven(heads.neck)
        losses = heads.image_losses(heads.outputs(pooled), boxes, labels)
        return float(torch.stack(list(losses.values())).sum().detach())

    reference = type(change)(**{**change.model_dump(), **_back(change, recipe)})
    assert total(change) != pytest.approx(total(reference), rel=1e-4)


def _back(change: Any, recipe: MistRecipe | OicrRecipe) -> dict[str, Any]:
    """The last changed setting as it is by default."""
    default = recipe.mining.model_dump()
    changed = [name for name, value in change.model_dump().items() if value != default[name]]
    return {changed[-1]: default[changed[-1]]}


@pytest.mark.parametrize("recipe", [mist(initial_deviation=0.02), oicr(initial_deviation=0.02)])
def test_shapes_names_and_initial_weights(recipe: MistRecipe | OicrRecipe) -> None:
    heads = heads_of(recipe, Vgg16Shape(widths=(1, 1, 1, 1, 1), hidden=600))
    streams = CLASSES + 1 if recipe.method == "mist-vgg16" else CLASSES
    expected = {"classification": streams, "detection": streams}
    expected |= {f"refinements.{index}": CLASSES + 1 for index in range(3)}
    if recipe.method == "mist-vgg16":
        expected |= {f"regressions.{index}": 4 * (CLASSES + 1) for index in range(3)}
    found = {name for name, _ in heads.named_parameters()}
    parts = [*expected, "neck.fc6", "neck.fc7"]
    assert found == {f"{name}.{kind}" for name in parts for kind in ("weight", "bias")}
    for name, outputs in expected.items():
        layer: Any = heads.get_submodule(name)
        assert layer.out_features == outputs and not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_scores_and_boxes_are_means_of_the_branches() -> None:
    heads = heads_of(mist()).eval()
    with torch.no_grad():
        for index, (branch, deltas) in enumerate(zip(heads.refinements, heads.regressions, strict=True)):
            branch.weight.zero_()
            deltas.weight.zero_()
            branch.bias.copy_(torch.log(torch.tensor([[4.0, 2, 1, 1], [1, 1, 1, 1], [1, 2, 3, 4]][index])))
            deltas.bias[8:12] = torch.tensor([index * 10.0, 0, 0, 5 * math.log(2)])  # of the second class
    item = sample(1)
    item["proposals"].proposal_boxes.tensor[:] = torch.tensor([[10.0, 20, 30, 40]])
    (found,) = heads.scored(torch.zeros(1, 8, 8, 12), [item["proposals"]], [(64, 96)])
    means = [(0.25 + 0.25 + 0.2) / 3, (0.125 + 0.25 + 0.3) / 3, (0.125 + 0.25 + 0.4) / 3]
    assert found.scores.tolist()[0] == pytest.approx(means)
    # Shifted by one width (20), twice as high around the centre.
    expected = torch.tensor([[[10.0, 20, 30, 40], [30.0, 10, 50, 50], [10.0, 20, 30, 40]]])
    torch.testing.assert_close(found.boxes, expected)


def test_boxes_are_clipped_to_their_view() -> None:
    heads = heads_of(mist()).eval()
    with torch.no_grad():
        for deltas in heads.regressions:
            deltas.bias.view(-1, 4)[1] = torch.tensor([0.0, 0, 20, 20])
            deltas.bias.view(-1, 4)[2] = torch.tensor([1e3, 1e3, 0, 0])
    items = [sample(2, 64, 96), sample(2, 48, 72)]
    found = heads.scored(
        torch.zeros(2, 8, 8, 12), [item["proposals"] for item in items], [(64, 96), (48, 72)]
    )
    for scored, (height, width) in zip(found, [(64, 96), (48, 72)], strict=True):
        torch.testing.assert_close(scored.boxes[:, 0], torch.tensor([[0.0, 0, width, height]] * 2))
        torch.testing.assert_close(scored.boxes[:, 1], torch.tensor([[width, height] * 2] * 2).float())


def test_oicr_leaves_the_proposals_alone() -> None:
    heads = heads_of(oicr()).eval()
    item = sample(6)
    (found,) = heads.scored(torch.randn(1, 8, 8, 12), [item["proposals"]], [(64, 96)])
    assert torch.equal(found.boxes, item["proposals"].proposal_boxes.tensor)
    assert found.scores.shape == (6, CLASSES)


def test_training_needs_the_labels() -> None:
    with pytest.raises(ValueError, match="image labels"):
        heads_of(oicr()).train()(None, torch.zeros(1, 8, 8, 12), [sample(2)["proposals"]])
