"""Yang et al. 2019 against the worked example of our reading (oracle yang2019.json)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.wsod.test_losses import edges
from torch import Tensor, nn

from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.wsod.detector import RegionHeads
from weaksam_cli.wsod.losses import encode
from weaksam_cli.wsod.method import Outputs, Regions, Rois
from weaksam_cli.wsod.oicr import LabelSettings
from weaksam_cli.wsod.yang2019 import AttentionSettings, Yang2019

CASES = ["R=6, classes 0 and 2", "R=2", "R=1"]
ALONE = Yang2019(attention=None)


@pytest.fixture
def published(oracle: Any) -> Any:
    return oracle("yang2019")


def fill(layer: nn.Module, weight: Any, bias: Any) -> None:
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight)[:, :, None, None])
        layer.bias.copy_(torch.tensor(bias))


def test_gam(published: Any) -> None:
    """The map with attention is what RoIs are pooled from; the classes' logits are the means over the attention."""
    case, method = published["gam"], Yang2019()
    heads = RegionHeads(method, 5, 2, 3)
    fill(heads.get_submodule("attend"), case["attention_1x1_weight_oc"], case["attention_bias"])
    fill(heads.get_submodule("guide"), case["guide_1x1_weight_oc"], case["guide_bias"])
    seen: list[Tensor] = []

    def pool(features: Tensor | None = None, stride: int = 8, boxes: Any = None) -> Tensor:
        assert features is not None and stride == 8
        seen.append(features)
        return torch.zeros(4, 5)

    labels = torch.tensor(case["labels"])
    regions = Regions(torch.zeros(4, 4), labels)
    found = method.outputs_of_rois(
        heads, Rois([regions], pool, (torch.tensor(case["X_chw"])[None],)), lambda item: item
    )
    torch.testing.assert_close(seen[0][0], torch.tensor(case["E_chw"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.image["guide"][0], torch.tensor(case["guide_logits"]), rtol=0, atol=1e-5)
    for weight in (1.0, 2.0):
        own = Yang2019(attention=AttentionSettings(weight=weight))
        loss = float(own.losses(found, regions)["loss_attention"].detach())
        assert loss == pytest.approx(weight * case["L_gam_mean_bce"], abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_reg_branch(published: Any, name: str) -> None:
    """Pseudo boxes, labels, weights, targets and both losses of the last branch."""
    assert [case["name"] for case in published["reg_branch"]["cases"]] == CASES
    case = published["reg_branch"]["cases"][CASES.index(name)]
    source = torch.tensor(case["source_score_last_refinement_without_background"])
    labels = torch.zeros(source.shape[1])
    labels[case["positive_classes_0based"]] = 1
    regions = Regions(edges(case["boxes"]), labels)
    seeds, mined = ALONE.seeds(source, regions), ALONE.mine(source, regions)
    torch.testing.assert_close(seeds.boxes, edges([item["box"] for item in case["pseudo_gt"]]))
    assert [index + 1 for index in seeds.classes.tolist()] == [
        item["class_1based"] for item in case["pseudo_gt"]
    ]
    assert seeds.scores.tolist() == [item["score"] for item in case["pseudo_gt"]]
    assert (mined.labels + 1).tolist() == case["roi_label"]
    assert mined.weights.tolist() == case["weight"]
    foreground = mined.labels >= 0
    targets = torch.zeros(len(source), 4)
    targets[foreground] = encode(mined.matched[foreground], regions.boxes[foreground])
    torch.testing.assert_close(targets, torch.tensor(case["targets"]), rtol=0, atol=1e-5)

    # The third refinement's probabilities: the source, and whatever background, which the softmax must keep.
    one_branch = Yang2019(attention=None, mining=LabelSettings(ignore_iou=0.1, branch_weights=(1.0,)))
    logits, deltas = (
        torch.tensor(case["cls_logits"]),
        torch.tensor(case["bbox_pred_R_x_Cplus1_x_4"]).flatten(1),
    )
    outputs = Outputs(source, source, (logits,), (deltas,))
    found = one_branch.refine(outputs, source, regions, lambda given: one_branch.mine(given, regions))
    assert float(found["loss_ref_cls0"]) == pytest.approx(case["L_cls"], abs=1e-5)
    assert float(found["loss_ref_reg0"]) == pytest.approx(case["L_reg"], abs=1e-5)


def test_total(published: Any) -> None:
    """All losses weigh 1, and the training goes down their sum."""
    case = published["total"]
    assert set(case["weights"].values()) == {1}
    method = Yang2019()
    assert method.attention is not None and method.attention.weight == 1
    assert method.mining.branch_weights == (1, 1, 1, 1)
    values = [
        part for item in case["example"].values() for part in (item if isinstance(item, list) else [item])
    ]
    assert sum(values) == case["L"]
    outputs = Outputs(
        torch.randn(3, 2),
        torch.randn(3, 2),
        (torch.randn(3, 3),) * 4,
        (torch.randn(3, 12),),
        image={"guide": torch.zeros(1, 2)},
    )
    found = method.losses(outputs, Regions(edges([[0, 0, 9, 9]] * 3), torch.ones(2)))
    assert len(found) == len(values) == 7


def test_attention_begins_as_the_settings_say() -> None:
    for bias, factor in ((0.0, 1.5), (-4.0, 1.018)):
        heads = RegionHeads(Yang2019(attention=AttentionSettings(initial_bias=bias)), 5, 2, 3)
        attention = heads.get_submodule("attend")(torch.zeros(1, 3, 2, 2)).sigmoid()
        assert float(1 + attention.detach().mean()) == pytest.approx(factor, abs=1e-3)


def test_an_image_without_proposals_still_teaches_attention() -> None:
    outputs = Outputs(
        torch.zeros(0, 2),
        torch.zeros(0, 2),
        (torch.zeros(0, 3),) * 4,
        (torch.zeros(0, 12),),
        image={"guide": torch.zeros(1, 2)},
    )
    found = Yang2019().losses(outputs, Regions(torch.zeros(0, 4), torch.ones(2)))
    assert float(found["loss_attention"]) == pytest.approx(0.6931, abs=1e-4)
    assert not any(value for name, value in found.items() if name != "loss_attention")


def test_lite0_has_no_map() -> None:
    with pytest.raises(UserError, match="attention: lite0 has no map of the image"):
        load_recipe("wsod", "yang2019-lite0", ["attention={initial_bias: 0.0, weight: 1.0}"])


@pytest.mark.parametrize("inclusive", [False, True])
def test_boxes_are_the_last_branch_s(inclusive: bool) -> None:
    """One width to the right, whose last pixel counts or does not."""
    method = Yang2019(mining=LabelSettings(inclusive=inclusive))
    deltas = torch.zeros(1, 12)
    deltas[0, 8] = 10
    outputs = Outputs(torch.zeros(1, 2), torch.zeros(1, 2), (), (deltas,))
    found = method.boxes(outputs, torch.tensor([[0.0, 0, 11, 11]]))
    width = 10.0 if inclusive else 11.0
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0, 11, 11], [width, 0, 11 + width, 11]]]))
