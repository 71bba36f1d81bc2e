from __future__ import annotations

from typing import Any

import pytest
import torch

from weaksam_cli.wsod.losses import (
    OICR_EPSILON,
    box_regression_loss,
    refinement_loss,
    wsddn_loss_mean,
    wsddn_loss_sum,
    wsddn_scores,
)
from weaksam_cli.wsod.mining import Assignment
from weaksam_cli.wsod.objectives import HeadOutputs, mean_losses, mist_losses, oicr_losses


def mist_images(case: dict[str, Any]) -> list[tuple[HeadOutputs, torch.Tensor, torch.Tensor]]:
    """The published case is a batch with the proposals of all images in one table."""
    tables = {name: torch.tensor(case[name]) for name in ("class_logits", "det_logits")}
    refinement = [torch.tensor(values) for values in case["ref_logits"]]
    deltas = [torch.tensor(values) for values in case["bbox_preds"]]
    samples = []
    start = 0
    for boxes, present in zip(case["boxes"], case["image_labels"], strict=True):
        rows = slice(start, start + len(boxes))
        start += len(boxes)
        outputs = HeadOutputs(
            tables["class_logits"][rows],
            tables["det_logits"][rows],
            [values[rows] for values in refinement],
            [values[rows] for values in deltas],
        )
        labels = torch.zeros(tables["class_logits"].shape[1] - 1)
        labels[torch.tensor(present) - 1] = 1
        samples.append((outputs, torch.tensor(boxes), labels))
    return samples


def test_mist_losses_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["roi_reg_loss"]
    found = mean_losses([mist_losses(*sample, plus_one=True) for sample in mist_images(case)])
    assert set(found) == set(case["losses"])
    for name, value in case["losses"].items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name
    assert float(sum(found.values(), torch.zeros(()))) == pytest.approx(case["total"], abs=1e-5)


def test_wsddn_mean_as_published(oracle: Any) -> None:
    data = oracle("mist_wetectron")
    losses = [
        wsddn_loss_mean(wsddn_scores(outputs.class_logits, outputs.detection_logits), labels)
        for outputs, _, labels in mist_images(data["roi_reg_loss"])
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
    found = oicr_losses(
        HeadOutputs(heads[0], heads[1], [first, second]), boxes, labels, branch_weights=(1.0, 2.0)
    )
    assert set(found) == {"loss_img", "loss_ref_cls0", "loss_ref_cls1"}
    # The source of branch 1 is the softmax of branch 0, whose order is that of the published probabilities.
    from weaksam_cli.wsod.mining import assign, max_ratio_pseudo_boxes

    mined = assign(boxes, max_ratio_pseudo_boxes(first.softmax(dim=1)[:, 1:], boxes, labels))
    expected = 2 * refinement_loss(second, mined.labels, mined.weights, epsilon=OICR_EPSILON)
    torch.testing.assert_close(found["loss_ref_cls1"], expected)


def random_outputs(n: int, classes: int, *, background_first: bool) -> HeadOutputs:
    generator = torch.Generator().manual_seed(n)

    def head(width: int) -> torch.Tensor:
        return torch.randn(n, width, generator=generator, requires_grad=True)

    width = classes + 1 if background_first else classes
    deltas = [head(4 * (classes + 1)) for _ in range(3)] if background_first else []
    return HeadOutputs(head(width), head(width), [head(classes + 1) for _ in range(3)], deltas)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 10, 33])
@pytest.mark.parametrize("present", [[], [1], [0, 1, 2]])
@pytest.mark.parametrize("method", ["mist", "oicr"])
def test_every_number_of_proposals_and_classes(n: int, present: list[int], method: str) -> None:
    outputs = random_outputs(n, 3, background_first=method == "mist")
    corner = torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) * 40
    boxes = torch.cat([corner, corner + 25], dim=1)
    labels = torch.zeros(3).index_fill(0, torch.tensor(present, dtype=torch.int64), 1.0)
    losses = (mist_losses if method == "mist" else oicr_losses)(outputs, boxes, labels)
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
    losses = mist_losses(outputs, boxes, torch.tensor([1.0, 0, 1.0]))
    losses["loss_ref_cls1"].backward()
    assert outputs.class_logits.grad is None and outputs.refinement_logits[0].grad is None
    assert outputs.refinement_logits[1].grad is not None


def test_weights_are_optional_and_multiply() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([-1, 0, 1, 2, -1, 0, 2])
    plain = refinement_loss(logits, labels)
    torch.testing.assert_close(plain, refinement_loss(logits, labels, torch.ones(7)))
    torch.testing.assert_close(2 * plain, refinement_loss(logits, labels, torch.full((7,), 2.0)))
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, labels + 1))


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
    with pytest.raises(ValueError, match="image_labels"):
        wsddn_loss_sum(torch.rand(3, 4), torch.ones(3))
    with pytest.raises(ValueError, match="image_labels"):
        wsddn_loss_mean(torch.rand(3, 4), torch.ones(4))
    with pytest.raises(ValueError, match="at least one"):
        mean_losses([])
