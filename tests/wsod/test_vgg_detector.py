from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.wsod.vgg_helpers import (
    CLASSES,
    DROPPING,
    MIST,
    OICR,
    WSDDN,
    boxes_in,
    detector_of,
    network,
    sample,
)
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.wsod.detector import Answer, RegionDetector, Sample
from weaksam_cli.wsod.method import Method, Regions
from weaksam_cli.wsod.mist import MiningSettings as MistMining
from weaksam_cli.wsod.mist import Mist
from weaksam_cli.wsod.oicr import MiningSettings as OicrMining
from weaksam_cli.wsod.oicr import Oicr
from weaksam_cli.wsod.settings import HeadSettings
from weaksam_cli.wsod.vgg_detector import VggDetector, build_vgg_detector, pool_rois

METHODS = pytest.mark.parametrize(
    "method", [MIST, DROPPING, OICR, WSDDN], ids=["mist", "drop-block", "oicr", "wsddn"]
)


def total_of(losses: Any) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def evaluate(detector: RegionDetector, items: Sequence[Sample]) -> list[Answer]:
    found = detector.eval()(items)
    assert isinstance(found, list)
    return found


@METHODS
@pytest.mark.parametrize("counts", [(0,), (1,), (2,), (6,), (7,), (0, 7), (7, 0), (0, 0), (30, 7)])
def test_every_number_of_proposals(method: Method, counts: tuple[int, ...]) -> None:
    detector = detector_of(method).train()
    items = [sample(n) for n in counts]
    losses = detector(items)
    names = {"loss_img"} | {f"loss_ref_cls{i}" for i in range(method.branches)}
    if method.method == "mist":
        names |= {f"loss_ref_reg{i}" for i in range(3)}
    assert set(losses) == names
    total = total_of(losses)
    assert torch.isfinite(total) and bool(total.detach() > 0) == any(counts)
    total.backward()
    gradients = [item.grad for item in detector.parameters() if item.grad is not None]
    assert gradients and all(torch.isfinite(value).all() for value in gradients)
    for n, found in zip(counts, evaluate(detector, items), strict=True):
        assert found.scores.shape == (n, CLASSES)
        assert found.boxes.shape == ((n, CLASSES, 4) if method.method == "mist" else (n, 4))
        assert torch.isfinite(found.scores).all() and torch.isfinite(found.boxes).all()
        assert not found.scores.requires_grad


@METHODS
@pytest.mark.parametrize("present", [(), (0, 1, 2)])
def test_every_number_of_classes(method: Method, present: tuple[int, ...]) -> None:
    losses = detector_of(method).train()([sample(12, present=present)])
    assert bool(total_of(losses) > losses["loss_img"]) == bool(present and method.branches)


def test_gradient_of_the_losses_reaches_all_but_the_mask_network() -> None:
    detector = detector_of(DROPPING).train()
    total_of(detector([sample(12, present=(0, 2))])).backward()
    for name, parameter in detector.named_parameters():
        frozen = name.startswith(tuple(f"backbone.features.{number}." for number in (0, 2, 5, 7)))
        expected = not frozen and not name.startswith("heads.drop_block.")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected, name
        assert parameter.requires_grad == expected, name


@METHODS
def test_evaluation_is_deterministic(method: Method) -> None:
    detector = detector_of(method)
    items = [sample(7), sample(6, 48, 64)]
    first, second = evaluate(detector, items), evaluate(detector, items)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.scores, other.scores) and torch.equal(one.boxes, other.boxes)
    assert first[0].scores.std() > 0.01


def test_drop_block_is_for_training() -> None:
    plain, dropping = detector_of(MIST), detector_of(DROPPING)
    dropping.load_state_dict(plain.state_dict(), strict=False)
    (one,), (other,) = evaluate(plain, [sample(7)]), evaluate(dropping, [sample(7)])
    assert torch.equal(one.scores, other.scores)
    plain.train()
    torch.manual_seed(0)
    first = float(total_of(plain([sample(7)])).detach())
    torch.manual_seed(0)
    assert float(total_of(dropping.train()([sample(7)])).detach()) != pytest.approx(first, rel=1e-4)


@METHODS
def test_images_of_one_size_do_not_change_each_other(method: Method) -> None:
    detector = detector_of(method)
    items = [sample(7, 50, 70), sample(6, 50, 70)]
    together = evaluate(detector, items)
    for item, found in zip(items, together, strict=True):
        (alone,) = evaluate(detector, [item])
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=0, atol=1e-3)  # pixels, rounded by float32


@pytest.mark.parametrize("method", [MIST, OICR], ids=["mist", "oicr"])
def test_images_of_two_sizes_hardly_change_each_other(method: Method) -> None:
    """The larger is not padded. Around the smaller there are zeros, which a cell feels up to 94 pixels away."""
    detector = detector_of(method)
    # Without biases the zeros around an image would stay zeros, which is what convolutions assume at a border.
    for layer in detector.backbone.features:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.constant_(layer.bias, 0.1)
    large, small = sample(7, 288, 352), sample(12, 256, 320)
    boxes = small.regions.boxes
    far_end = torch.tensor([320.0, 256.0]) - 112
    boxes[:6] = boxes_in(6, *far_end.flip(0).int().tolist())
    boxes[6:] += torch.tensor([320.0, 256, 320, 256]) - boxes[6:, [2, 3, 2, 3]]
    found_large, found_small = evaluate(detector, [large, small])
    (alone_large,), (alone_small,) = evaluate(detector, [large]), evaluate(detector, [small])
    torch.testing.assert_close(found_large.scores, alone_large.scores)
    torch.testing.assert_close(found_large.boxes, alone_large.boxes)
    torch.testing.assert_close(found_small.scores[:6], alone_small.scores[:6])
    torch.testing.assert_close(found_small.boxes[:6], alone_small.boxes[:6])
    near_border = (found_small.scores[6:] - alone_small.scores[6:]).abs()
    assert 1e-4 < float(near_border.max()) < 0.5


def test_sides_are_multiples_of_32_also_of_an_image_alone() -> None:
    detector = detector_of(OICR)
    shapes: list[tuple[int, ...]] = []
    detector.backbone.features[0].register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    evaluate(detector, [sample(2, 50, 70)])
    evaluate(detector, [sample(2, 50, 70), sample(1, 50, 70)])
    evaluate(detector, [sample(2, 50, 70), sample(1, 65, 40)])
    assert shapes == [(1, 3, 64, 96), (2, 3, 64, 96), (2, 3, 96, 96)]


@pytest.mark.parametrize("kind", [Mist, Oicr])
def test_a_detector_learns_what_it_is_shown(kind: type[Mist] | type[Oicr]) -> None:
    """Bright squares are of class 0, dark ones of class 2: after some steps, images are told apart."""
    method = kind(
        heads=HeadSettings(initial_deviation=0.001), **({"drop_block": None} if kind is Mist else {})
    )
    detector = detector_of(method, dropout=0.0).train()
    items = []
    for sign, index in ((1.0, 0), (-1.0, 2)):
        item = sample(12, present=(index,))
        left, top, right, bottom = item.regions.boxes[0].round().int().tolist()
        item.input.mul_(0.2)
        item.input[:, top:bottom, left:right] = 150 * sign
        items.append(item)
    trainable = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=3e-3)
    first = float(total_of(detector(items)).detach())
    for _ in range(60):
        optimizer.zero_grad()
        total_of(detector(items)).backward()
        optimizer.step()
    best = [found.scores.sum(dim=0).argmax() for found in evaluate(detector, items)]
    assert [int(index) for index in best] == [0, 2]
    assert float(total_of(detector.train()(items)).detach()) < first


@METHODS
def test_losses_are_float32_in_mixed_precision(method: Method) -> None:
    detector = detector_of(method).train()
    items = [sample(12, present=(0, 2))]
    torch.manual_seed(1)
    expected = total_of(detector(items))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(items)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert float(total_of(losses).detach()) == pytest.approx(float(expected.detach()), rel=0.2)


DONOR = detector_of(OICR)


def vgg_file(path: Path, first: int) -> Path:
    """Weights as a file whose first full layer is `classifier.<first>`: 0 for torchvision's layout, 1 for Caffe's."""
    state = dict(DONOR.backbone.state_dict())
    for number, layer in ((first, "fc6"), (first + 3, "fc7")):
        own = DONOR.neck.get_submodule(layer).state_dict()
        state |= {f"classifier.{number}.{name}": value for name, value in own.items()}
    torch.save(state, path)
    return path


def test_built_from_a_file(tmp_path: Path) -> None:
    path = vgg_file(tmp_path / "vgg.pth", 1)
    torch.manual_seed(9)
    built = build_vgg_detector(MIST, network(MIST), CLASSES, path)
    own = built.backbone.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in DONOR.backbone.state_dict().items())
    fc7 = "fc7.weight"
    assert torch.equal(built.neck.state_dict()[fc7], DONOR.neck.state_dict()[fc7])
    with pytest.raises(UserError, match="does not fit VGG16"):
        build_vgg_detector(MIST, network(MIST, widths=(4, 6, 8, 8, 9)), CLASSES, path)
    torch.manual_seed(9)
    fresh = build_vgg_detector(MIST, network(MIST), CLASSES, None)
    assert not torch.equal(fresh.neck.state_dict()[fc7], DONOR.neck.state_dict()[fc7])
    assert torch.equal(fresh.heads.classification.weight, built.heads.classification.weight)


def test_weights_for_other_pixels_are_refused(tmp_path: Path) -> None:
    path = vgg_file(tmp_path / "torchvision.pth", 0)
    with pytest.raises(
        UserError, match=r"pixels\.order = BGR.*trained with RGB.*--set network\.pixels\.order=RGB"
    ):
        build_vgg_detector(OICR, network(OICR), CLASSES, path)
    build_vgg_detector(OICR, network(OICR, pixels={"order": "RGB"}), CLASSES, path)
    build_vgg_detector(OICR, network(OICR, weights_order="BGR"), CLASSES, path)


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
    detector = detector_of(OICR, widths=(1, 1, 1, 1, 3), hidden=5).eval()
    heads, neck = detector.heads, detector.neck
    spread = torch.zeros(5, 3, 7, 7)
    spread[:, :, :2, :2] = state["fc1.weight"].view(5, 3, 2, 2)
    fill(neck.fc6, spread.flatten(1), state["fc1.bias"])
    named = {"fc2": neck.fc7, "fc_cls1": heads.classification, "fc_cls2": heads.detection}
    named |= {f"fc_refine{index + 1}": branch for index, branch in enumerate(heads.refinements)}
    for name, layer in named.items():
        fill(layer, state[f"{name}.weight"], state[f"{name}.bias"])
    pooled = torch.full((4, 3, 7, 7), 9.0)
    pooled[:, :, :2, :2] = torch.tensor(case["x"])
    outputs = OICR.outputs(heads, pooled, neck)
    scores = outputs.class_logits.softmax(dim=1) * outputs.detection_logits.softmax(dim=0)
    torch.testing.assert_close(scores, torch.tensor(case["cls"]))
    for index, logits in enumerate(outputs.refinement_logits):
        torch.testing.assert_close(logits.softmax(dim=1), torch.tensor(case[f"refine{index + 1}"]))
    assert not outputs.deltas


def test_the_published_mist_losses(oracle: Any) -> None:
    """Each RoI is one feature, whose weights are the oracle's outputs. Its boxes are inclusive indexes counted with +1; as
    pixel edges they give the same losses."""
    case = oracle("mist_wetectron")["roi_reg_loss"]
    count = sum(case["n_rois"])
    detector = detector_of(MIST, widths=(1, 1, 1, 1, 1), hidden=count, dropout=0.0)
    heads, neck = detector.heads, detector.neck
    fill(neck.fc6, torch.eye(count, 49))
    fill(neck.fc7, torch.eye(count))
    fill(heads.classification, torch.tensor(case["class_logits"]).T)
    fill(heads.detection, torch.tensor(case["det_logits"]).T)
    for index in range(3):
        fill(heads.refinements[index], torch.tensor(case["ref_logits"][index]).T)
        fill(heads.regressions[index], torch.tensor(case["bbox_preds"][index]).T)
    outputs = MIST.outputs(heads, torch.eye(count, 49).view(count, 1, 7, 7), neck)
    parts, regions, start = [], [], 0
    for boxes, present in zip(case["boxes"], case["image_labels"], strict=True):
        labels = torch.zeros(CLASSES).index_fill(0, torch.tensor(present) - 1, 1.0)
        edges = torch.tensor(boxes) + torch.tensor([0.0, 0, 1, 1])
        parts.append(outputs.rows(start, start + len(boxes)))
        regions.append(Regions(edges, labels))
        start += len(boxes)
    found = MIST.batch_losses(parts, regions)
    assert set(found) == set(case["losses"])
    for name, value in case["losses"].items():
        assert float(found[name].detach()) == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (MIST, MistMining(share=0.9)),
        (MIST, MistMining(share=0.5, overlap=0.9)),
        (MIST, MistMining(foreground_iou=0.9)),
        (MIST, MistMining(branch_weights=(1.0, 1.0, 1.0))),
        (OICR, OicrMining(ratio=0.1)),
        (OICR, OicrMining(ratio=0.5, nms=0.01)),
        (OICR, OicrMining(ratio=0.5, class_wise=True)),
        (OICR, OicrMining(foreground_iou=0.9)),
        (OICR, OicrMining(branch_weights=(3.0, 1.0, 1.0))),
        (OICR, OicrMining(weights="balanced")),
    ],
)
def test_the_settings_decide_the_mining(method: Mist | Oicr, change: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    pooled = torch.randn(40, 8, 7, 7, generator=generator)
    regions = Regions(boxes_in(40, 64, 96), torch.tensor([1.0, 0, 1.0]))

    def total(mining: Any) -> float:
        heads = HeadSettings(initial_deviation=0.3)
        own = method.model_copy(update={"mining": mining, "heads": heads})
        detector = detector_of(own).eval()
        losses = own.losses(own.outputs(detector.heads, pooled, detector.neck), regions)
        return float(torch.stack(list(losses.values())).sum().detach())

    reference = type(change)(**{**change.model_dump(), **_back(change, method)})
    assert total(change) != pytest.approx(total(reference), rel=1e-4)


def _back(change: Any, method: Mist | Oicr) -> dict[str, Any]:
    """The last changed setting as it is by default."""
    default = method.mining.model_dump()
    changed = [name for name, value in change.model_dump().items() if value != default[name]]
    return {changed[-1]: default[changed[-1]]}


@METHODS
def test_shapes_names_and_initial_weights(method: Method) -> None:
    detector = detector_of(method, widths=(1, 1, 1, 1, 1), hidden=600)
    streams = CLASSES + 1 if method.method == "mist" else CLASSES
    expected = {"classification": streams, "detection": streams}
    expected |= {f"refinements.{index}": CLASSES + 1 for index in range(method.branches)}
    if method.method == "mist":
        expected |= {f"regressions.{index}": 4 * (CLASSES + 1) for index in range(3)}
    found = {name for name, _ in detector.named_parameters()}
    parts = [*(f"heads.{name}" for name in expected), "neck.fc6", "neck.fc7"]
    named = {f"{name}.{kind}" for name in parts for kind in ("weight", "bias")}
    assert {name for name in found if not name.startswith(("backbone.", "heads.drop_block."))} == named
    for name, outputs in expected.items():
        layer: Any = detector.heads.get_submodule(name)
        assert layer.out_features == outputs and not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def answer_on_nothing(detector: VggDetector, boxes: Tensor) -> Answer:
    """On an image of zeros, so that the heads' biases decide."""
    for layer in detector.backbone.features:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    (found,) = evaluate(detector, [Sample(torch.zeros(3, 64, 96), Regions(boxes, torch.zeros(CLASSES)))])
    return found


def test_scores_and_boxes_are_means_of_the_branches() -> None:
    detector = detector_of(MIST)
    heads = detector.heads
    with torch.no_grad():
        for index, (branch, deltas) in enumerate(zip(heads.refinements, heads.regressions, strict=True)):
            branch.weight.zero_()
            deltas.weight.zero_()
            branch.bias.copy_(torch.log(torch.tensor([[4.0, 2, 1, 1], [1, 1, 1, 1], [1, 2, 3, 4]][index])))
            deltas.bias[8:12] = torch.tensor([index * 10.0, 0, 0, 5 * math.log(2)])  # of the second class
    found = answer_on_nothing(detector, torch.tensor([[10.0, 20, 30, 40]]))
    means = [(0.25 + 0.25 + 0.2) / 3, (0.125 + 0.25 + 0.3) / 3, (0.125 + 0.25 + 0.4) / 3]
    assert found.scores.tolist()[0] == pytest.approx(means)
    # Shifted by one width (20), twice as high around the centre.
    expected = torch.tensor([[[10.0, 20, 30, 40], [30.0, 10, 50, 50], [10.0, 20, 30, 40]]])
    torch.testing.assert_close(found.boxes, expected)


def test_oicr_leaves_the_proposals_alone() -> None:
    item = sample(6)
    (found,) = evaluate(detector_of(OICR), [item])
    assert torch.equal(found.boxes, item.regions.boxes)
    assert found.scores.shape == (6, CLASSES)
