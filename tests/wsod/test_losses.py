from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.core.boxes import inclusive_to_edges
from weaksam_cli.wsod.losses import (
    OICR_EPSILON,
    box_regression_loss,
    decode,
    encode,
    refinement_loss,
    wsddn_loss_mean,
    wsddn_loss_sum,
    wsddn_scores,
)
from weaksam_cli.wsod.method import Outputs, Regions
from weaksam_cli.wsod.mining import Assignment, assign, max_ratio_pseudo_boxes
from weaksam_cli.wsod.mist import Mist
from weaksam_cli.wsod.oicr import MiningSettings, Oicr
from weaksam_cli.wsod.wsddn import Wsddn


def edges(inclusive: Any) -> torch.Tensor:
    return torch.from_numpy(inclusive_to_edges(np.asarray(inclusive, np.float32)))


def mist_images(case: dict[str, Any]) -> list[tuple[Outputs, Regions]]:
    """The published case is a batch with the proposals of all images in one table; its boxes are inclusive indexes."""
    tables = {name: torch.tensor(case[name]) for name in ("class_logits", "det_logits")}
    refinement = [torch.tensor(values) for values in case["ref_logits"]]
    deltas = [torch.tensor(values) for values in case["bbox_preds"]]
    samples = []
    start = 0
    for boxes, present in zip(case["boxes"], case["image_labels"], strict=True):
        rows = slice(start, start + len(boxes))
        start += len(boxes)
        outputs = Outputs(
            tables["class_logits"][rows],
            tables["det_logits"][rows],
            tuple(values[rows] for values in refinement),
            tuple(values[rows] for values in deltas),
        )
        labels = torch.zeros(tables["class_logits"].shape[1] - 1)
        labels[torch.tensor(present) - 1] = 1
        samples.append((outputs, Regions(edges(boxes), labels)))
    return samples


def test_mist_losses_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["roi_reg_loss"]
    found = Mist(drop_block=None).batch_losses(*zip(*mist_images(case), strict=True))
    assert set(found) == set(case["losses"])
    for name, value in case["losses"].items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name
    assert float(sum(found.values(), torch.zeros(()))) == pytest.approx(case["total"], abs=1e-5)


def test_wsddn_mean_as_published(oracle: Any) -> None:
    data = oracle("mist_wetectron")
    losses = [
        wsddn_loss_mean(wsddn_scores(outputs.class_logits, outputs.detection_logits), regions.image_labels)
        for outputs, regions in mist_images(data["roi_reg_loss"])
    ]
    assert float(torch.stack(losses).mean()) == pytest.approx(data["wsddn_loss_wetectron"]["loss"], abs=1e-5)


def test_oicr_losses_as_published(oracle: Any) -> None:
    case = oracle("oicr_wsod2")["losses"]
    sample = wsddn_loss_sum(torch.tensor(case["wsddn_scores"]), torch.tensor(case["image_labels"]))
    assert float(sample) == pytest.approx(case["loss_wsddn"], abs=1e-5)
    logits = torch.tensor(case["refine_probs"]).log()
    found = refinement_loss(
        logits, torch.tensor(case["roi_labels"]), torch.tensor(case["roi_weights"]), epsilon=OICR_EPSILON
    )
    assert float(found) == pytest.approx(case["loss_oicr"], abs=1e-5)


def test_oicr_head_as_published(oracle: Any) -> None:
    """The published head in evaluation mode: scores are the product of the two softmaxes."""
    case = oracle("oicr_wsod2")["head_forward"]
    state = {name: torch.tensor(value) for name, value in case["state"].items()}

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    features = linear("fc2", linear("fc1", torch.tensor(case["x"]).flatten(1)).relu()).relu()
    scores = wsddn_scores(linear("fc_cls1", features), linear("fc_cls2", features))
    torch.testing.assert_close(scores, torch.tensor(case["cls"]))
    for index in (1, 2, 3):
        branch = linear(f"fc_refine{index}", features).softmax(dim=1)
        torch.testing.assert_close(branch, torch.tensor(case[f"refine{index}"]))


def test_oicr_objective_is_its_parts(oracle: Any) -> None:
    case = oracle("oicr_wsod2")["pseudo_gt_near_ties"]
    boxes, labels = torch.tensor(case["boxes_xyxy"]), torch.tensor(case["image_labels"])
    generator = torch.Generator().manual_seed(3)
    first = torch.cat([torch.full((10, 1), 1e-4), torch.tensor(case["prob"])], dim=1).clamp(min=1e-6).log()
    heads = [torch.randn(10, 3, generator=generator) for _ in range(2)]
    second = torch.randn(10, 4, generator=generator)
    method = Oicr(mining=MiningSettings(branch_weights=(1.0, 2.0)))
    found = method.losses(Outputs(heads[0], heads[1], (first, second)), Regions(boxes, labels))
    assert set(found) == {"loss_img", "loss_ref_cls0", "loss_ref_cls1"}
    # The source of branch 1 is the softmax of branch 0, whose order is that of the published probabilities.
    mined = assign(boxes, max_ratio_pseudo_boxes(first.softmax(dim=1)[:, 1:], boxes, labels))
    expected = 2 * refinement_loss(second, mined.labels, mined.weights, epsilon=OICR_EPSILON)
    torch.testing.assert_close(found["loss_ref_cls1"], expected)


def random_outputs(n: int, classes: int, *, background_first: bool) -> Outputs:
    generator = torch.Generator().manual_seed(n)

    def head(width: int) -> torch.Tensor:
        return torch.randn(n, width, generator=generator, requires_grad=True)

    width = classes + 1 if background_first else classes
    deltas = tuple(head(4 * (classes + 1)) for _ in range(3)) if background_first else ()
    return Outputs(head(width), head(width), tuple(head(classes + 1) for _ in range(3)), deltas)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 10, 33])
@pytest.mark.parametrize("present", [[], [1], [0, 1, 2]])
@pytest.mark.parametrize("method", [Mist(), Oicr()], ids=["mist", "oicr"])
def test_every_number_of_proposals_and_classes(n: int, present: list[int], method: Mist | Oicr) -> None:
    outputs = random_outputs(n, 3, background_first=method.method == "mist")
    corner = torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) * 40
    boxes = torch.cat([corner, corner + 25], dim=1)
    labels = torch.zeros(3).index_fill(0, torch.tensor(present, dtype=torch.int64), 1.0)
    losses = method.losses(outputs, Regions(boxes, labels))
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    for head in (outputs.class_logits, outputs.detection_logits, *outputs.refinement_logits, *outputs.deltas):
        assert head.grad is not None and torch.isfinite(head.grad).all()
    if n == 0:
        assert float(total.detach()) == 0
    if not present:
        assert all(float(value.detach()) == 0 for name, value in losses.items() if name != "loss_img")
        assert all(not head.grad.any() for head in outputs.refinement_logits if head.grad is not None)


def test_no_gradient_through_mining() -> None:
    outputs = random_outputs(12, 3, background_first=True)
    boxes = torch.tensor([[5.0 * i, 0, 5.0 * i + 20, 20] for i in range(12)])
    losses = Mist().losses(outputs, Regions(boxes, torch.tensor([1.0, 0, 1.0])))
    losses["loss_ref_cls1"].backward()
    assert outputs.class_logits.grad is None and outputs.refinement_logits[0].grad is None
    assert outputs.refinement_logits[1].grad is not None


def test_weights_multiply() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([-1, 0, 1, 2, -1, 0, 2])
    plain = refinement_loss(logits, labels, torch.ones(7))
    torch.testing.assert_close(2 * plain, refinement_loss(logits, labels, torch.full((7,), 2.0)))
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, labels + 1))


def test_wsddn_learns_from_the_sum_over_classes() -> None:
    outputs = random_outputs(6, 3, background_first=False)
    labels = torch.tensor([1.0, 0, 1])
    scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
    losses = Wsddn().losses(outputs, Regions(torch.zeros(6, 4), labels))
    assert list(losses) == ["loss_img"]
    torch.testing.assert_close(losses["loss_img"], wsddn_loss_sum(scores, labels))


def test_background_has_no_regression_loss() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20]])
    assignment = Assignment(torch.tensor([-1, -1]), torch.ones(2), boxes)
    assert float(box_regression_loss(torch.randn(2, 12), boxes, assignment)) == 0


def test_scores_sum_to_at_most_one_for_each_class() -> None:
    outputs = random_outputs(50, 4, background_first=False)
    scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
    assert (scores.sum(dim=0) <= 1 + 1e-6).all() and (scores >= 0).all()


def test_image_scores_beyond_one_by_rounding() -> None:
    sure = torch.full((3, 2), 0.5)
    assert float(wsddn_loss_sum(sure, torch.tensor([1, 1]))) == 0
    assert float(wsddn_loss_sum(sure, torch.tensor([1, 0]))) == pytest.approx(100)


def test_image_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="target size"):
        wsddn_loss_sum(torch.rand(3, 4), torch.ones(3))
    with pytest.raises(ValueError, match="target size"):
        wsddn_loss_mean(torch.rand(3, 4), torch.ones(4))


number = st.integers(0, 60)
box = st.tuples(number, number, st.integers(1, 60), st.integers(1, 60)).map(
    lambda corner: [corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]]
)


def test_encode_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["box_coder"]["encode"]
    expected = torch.tensor(case["out"])
    torch.testing.assert_close(encode(edges(case["gt"]), edges(case["proposals"])), expected)


def test_decode_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["box_coder"]["decode"]
    codes, expected = torch.tensor(case["codes"]), torch.tensor(case["out"])
    on_edges = decode(codes, edges(case["proposals"])) - torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(on_edges, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=8))
def test_decode_undoes_encode(pairs: list[Any]) -> None:
    targets = torch.tensor([pair[0] for pair in pairs], dtype=torch.float32)
    proposals = torch.tensor([pair[1] for pair in pairs], dtype=torch.float32)
    deltas = encode(targets, proposals)
    torch.testing.assert_close(decode(deltas, proposals), targets, atol=1e-3, rtol=1e-4)


def test_decode_many_classes_and_none() -> None:
    proposals = torch.tensor([[0.0, 0, 10, 10], [5, 5, 9, 30]])
    deltas = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    decoded = decode(deltas, proposals)
    for index in range(3):
        part = slice(4 * index, 4 * index + 4)
        torch.testing.assert_close(decoded[:, part], decode(deltas[:, part], proposals))
    assert decode(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
    assert encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
