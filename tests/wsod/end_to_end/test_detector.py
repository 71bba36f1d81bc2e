from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.wsod.end_to_end.vgg_helpers import CLASSES, NARROW, boxes_in, enliven, mist, oicr, sample
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.vgg16 import Vgg16Shape
from weaksam_cli.wsod.end_to_end.detector import VggWeakDetector, build_vgg_detector
from weaksam_cli.wsod.end_to_end.recipe import DropBlockSettings, MistRecipe, OicrRecipe
from weaksam_cli.wsod.end_to_end.roi_heads import Scored

DROPPING = mist(drop_block=DropBlockSettings(gamma=0.2, temperature=1.0))
RECIPES = pytest.mark.parametrize("recipe", [mist(), DROPPING, oicr()], ids=["mist", "drop-block", "oicr"])


def detector_of(recipe: MistRecipe | OicrRecipe, deviation: float = 0.02) -> VggWeakDetector:
    """With heads whose outputs differ from proposal to proposal."""
    network = recipe.network.model_copy(update={"initial_deviation": deviation})
    torch.manual_seed(0)
    detector = VggWeakDetector(recipe.model_copy(update={"network": network}), CLASSES, NARROW)
    enliven(detector.roi_heads.neck)
    return detector


def total_of(losses: Any) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def evaluate(detector: VggWeakDetector, items: Sequence[dict[str, Any]]) -> list[Scored]:
    found = detector.eval()(items)
    assert isinstance(found, list)
    return found


@RECIPES
@pytest.mark.parametrize("counts", [(0,), (1,), (2,), (6,), (7,), (0, 7), (7, 0), (0, 0), (30, 7)])
def test_every_number_of_proposals(recipe: MistRecipe | OicrRecipe, counts: tuple[int, ...]) -> None:
    detector = detector_of(recipe).train()
    items = [sample(n) for n in counts]
    losses = detector(items)
    names = {"loss_img"} | {f"loss_ref_cls{i}" for i in range(3)}
    if recipe.method == "mist-vgg16":
        names |= {f"loss_ref_reg{i}" for i in range(3)}
    assert set(losses) == names
    total = total_of(losses)
    assert torch.isfinite(total) and bool(total.detach() > 0) == any(counts)
    total.backward()
    gradients = [item.grad for item in detector.parameters() if item.grad is not None]
    assert gradients and all(torch.isfinite(value).all() for value in gradients)
    for n, found in zip(counts, evaluate(detector, items), strict=True):
        assert found.scores.shape == (n, CLASSES)
        assert found.boxes.shape == ((n, CLASSES, 4) if recipe.method == "mist-vgg16" else (n, 4))
        assert torch.isfinite(found.scores).all() and torch.isfinite(found.boxes).all()
        assert not found.scores.requires_grad


@RECIPES
@pytest.mark.parametrize("present", [(), (0, 1, 2)])
def test_every_number_of_classes(recipe: MistRecipe | OicrRecipe, present: tuple[int, ...]) -> None:
    losses = detector_of(recipe).train()([sample(12, present=present)])
    assert bool(total_of(losses) > losses["loss_img"]) == bool(present)


def test_gradient_of_the_losses_reaches_all_but_the_mask_network() -> None:
    detector = detector_of(DROPPING).train()
    total_of(detector([sample(12, present=(0, 2))])).backward()
    for name, parameter in detector.named_parameters():
        frozen = name.startswith(tuple(f"backbone.features.{number}." for number in (0, 2, 5, 7)))
        expected = not frozen and not name.startswith("roi_heads.drop_block.")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected, name
        assert parameter.requires_grad == (not frozen), name


def test_gradient_of_the_adversary_reaches_the_mask_network_alone() -> None:
    detector = detector_of(DROPPING).train()
    detector.adversarial_loss([sample(12, present=(0, 2)), sample(7, 48, 64)]).backward()
    for name, parameter in detector.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == name.startswith("roi_heads.drop_block."), name
        assert parameter.grad is None or reached
    assert detector.roi_heads.neck.fc6.weight.requires_grad


def test_the_adversary_wants_the_opposite() -> None:
    detector = detector_of(DROPPING).train()
    items = [sample(12, present=(0, 2))]
    torch.manual_seed(4)
    total = total_of(detector(items))
    torch.manual_seed(4)
    assert float(detector.adversarial_loss(items).detach()) == pytest.approx(-0.01 * float(total.detach()))


def test_the_adversary_learns_to_hurt() -> None:
    """The mask network climbs the detector's losses when it takes steps alone."""
    detector = detector_of(mist(drop_block=DropBlockSettings(gamma=0.2, temperature=1.0), dropout=0)).train()
    assert detector.roi_heads.drop_block is not None
    optimizer = torch.optim.Adam(detector.roi_heads.drop_block.parameters(), lr=0.05)
    items = [sample(40, present=(0, 2))]

    def mean_loss() -> float:
        with torch.no_grad():
            return sum(float(total_of(detector(items))) for _ in range(20)) / 20

    before = mean_loss()
    for _ in range(30):
        optimizer.zero_grad()
        detector.adversarial_loss(items).backward()
        optimizer.step()
    assert mean_loss() > 1.02 * before


@pytest.mark.parametrize(("recipe", "training"), [(mist(), True), (oicr(), True), (DROPPING, False)])
def test_no_adversary_without_drop_block_or_in_evaluation(
    recipe: MistRecipe | OicrRecipe, training: bool
) -> None:
    with pytest.raises(ValueError, match="DropBlock in training mode"):
        detector_of(recipe).train(training).adversarial_loss([sample(3)])


@RECIPES
def test_evaluation_is_deterministic(recipe: MistRecipe | OicrRecipe) -> None:
    detector = detector_of(recipe)
    items = [sample(7), sample(6, 48, 64)]
    first, second = evaluate(detector, items), evaluate(detector, items)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.scores, other.scores) and torch.equal(one.boxes, other.boxes)
    assert first[0].scores.std() > 0.01


def test_drop_block_is_for_training() -> None:
    plain, dropping = detector_of(mist()), detector_of(DROPPING)
    dropping.load_state_dict(plain.state_dict(), strict=False)
    (one,), (other,) = evaluate(plain, [sample(7)]), evaluate(dropping, [sample(7)])
    assert torch.equal(one.scores, other.scores)
    plain.train()
    torch.manual_seed(0)
    first = float(total_of(plain([sample(7)])).detach())
    torch.manual_seed(0)
    assert float(total_of(dropping.train()([sample(7)])).detach()) != pytest.approx(first, rel=1e-4)


@RECIPES
def test_images_of_one_size_do_not_change_each_other(recipe: MistRecipe | OicrRecipe) -> None:
    detector = detector_of(recipe)
    items = [sample(7, 50, 70), sample(6, 50, 70)]
    together = evaluate(detector, items)
    for item, found in zip(items, together, strict=True):
        (alone,) = evaluate(detector, [item])
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=0, atol=1e-3)  # pixels, rounded by float32


@RECIPES
def test_images_of_two_sizes_hardly_change_each_other(recipe: MistRecipe | OicrRecipe) -> None:
    """The larger is not padded. Around the smaller there are zeros, which a cell feels up to 94 pixels away."""
    detector = detector_of(recipe)
    # Without biases the zeros around an image would stay zeros, which is what convolutions assume at a border.
    for layer in detector.backbone.features:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.constant_(layer.bias, 0.1)
    large, small = sample(7, 288, 352), sample(12, 256, 320)
    boxes = small["proposals"].proposal_boxes
    far_end = torch.tensor([320.0, 256.0]) - 112
    boxes.tensor[:6] = boxes_in(6, *far_end.flip(0).int().tolist())
    boxes.tensor[6:] += torch.tensor([320.0, 256, 320, 256]) - boxes.tensor[6:, [2, 3, 2, 3]]
    found_large, found_small = evaluate(detector, [large, small])
    (alone_large,), (alone_small,) = evaluate(detector, [large]), evaluate(detector, [small])
    torch.testing.assert_close(found_large.scores, alone_large.scores)
    torch.testing.assert_close(found_large.boxes, alone_large.boxes)
    torch.testing.assert_close(found_small.scores[:6], alone_small.scores[:6])
    torch.testing.assert_close(found_small.boxes[:6], alone_small.boxes[:6])
    near_border = (found_small.scores[6:] - alone_small.scores[6:]).abs()
    assert 1e-4 < float(near_border.max()) < 0.5


def test_sides_are_multiples_of_32_also_of_a_image_alone() -> None:
    detector = detector_of(oicr())
    shapes: list[tuple[int, ...]] = []
    detector.backbone.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    evaluate(detector, [sample(2, 50, 70)])
    evaluate(detector, [sample(2, 50, 70), sample(1, 50, 70)])
    evaluate(detector, [sample(2, 50, 70), sample(1, 65, 40)])
    assert shapes == [(1, 3, 64, 96), (2, 3, 64, 96), (2, 3, 96, 96)]


@pytest.mark.parametrize("recipe", [mist(dropout=0), oicr(dropout=0)], ids=["mist", "oicr"])
def test_a_detector_learns_what_it_is_shown(recipe: MistRecipe | OicrRecipe) -> None:
    """Bright squares are of class 0, dark ones of class 2: after some steps, images are told apart."""
    detector = detector_of(recipe, deviation=0.001).train()
    items = []
    for sign, index in ((1.0, 0), (-1.0, 2)):
        item = sample(12, present=(index,))
        left, top, right, bottom = item["proposals"].proposal_boxes.tensor[0].round().int().tolist()
        item["image"] *= 0.2
        item["image"][:, top:bottom, left:right] = 150 * sign
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


@RECIPES
def test_losses_are_float32_in_mixed_precision(recipe: MistRecipe | OicrRecipe) -> None:
    detector = detector_of(recipe).train()
    items = [sample(12, present=(0, 2))]
    torch.manual_seed(1)
    expected = total_of(detector(items))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(items)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert float(total_of(losses).detach()) == pytest.approx(float(expected.detach()), rel=0.2)


def test_registered_by_name() -> None:
    from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY

    assert META_ARCH_REGISTRY.get("VggWeakDetector") is VggWeakDetector
    assert ROI_HEADS_REGISTRY.get("VggWeakRoiHeads") is type(detector_of(mist()).roi_heads)


def test_built_from_a_file(tmp_path: Path) -> None:
    donor = detector_of(oicr())
    state = dict(donor.backbone.state_dict())
    for number, layer in ((1, donor.roi_heads.neck.fc6), (4, donor.roi_heads.neck.fc7)):
        state |= {f"classifier.{number}.{name}": value for name, value in layer.state_dict().items()}
    torch.save(state, tmp_path / "vgg.pth")
    torch.manual_seed(9)
    built = build_vgg_detector(mist(), CLASSES, tmp_path / "vgg.pth", NARROW)
    assert all(
        torch.equal(value, built.backbone.state_dict()[name])
        for name, value in donor.backbone.state_dict().items()
    )
    assert torch.equal(built.roi_heads.neck.fc7.weight, donor.roi_heads.neck.fc7.weight)
    with pytest.raises(UserError, match="does not fit VGG16"):
        build_vgg_detector(mist(), CLASSES, tmp_path / "vgg.pth", Vgg16Shape((4, 6, 8, 8, 9), 16))
    torch.manual_seed(9)
    fresh = build_vgg_detector(mist(), CLASSES, None, NARROW)
    assert not torch.equal(fresh.roi_heads.neck.fc7.weight, donor.roi_heads.neck.fc7.weight)
    assert torch.equal(fresh.roi_heads.classification.weight, built.roi_heads.classification.weight)


def test_weights_for_other_pixels_are_refused(tmp_path: Path) -> None:
    donor = detector_of(oicr())
    state = dict(donor.backbone.state_dict())
    for number, layer in ((0, donor.roi_heads.neck.fc6), (3, donor.roi_heads.neck.fc7)):
        state |= {f"classifier.{number}.{name}": value for name, value in layer.state_dict().items()}
    torch.save(state, tmp_path / "torchvision.pth")
    recipe = oicr()
    with pytest.raises(UserError, match=r"pixels\.order = BGR.*trained with RGB.*--set pixels\.order=RGB"):
        build_vgg_detector(recipe, CLASSES, tmp_path / "torchvision.pth", NARROW)
    fitting = recipe.model_copy(update={"pixels": recipe.pixels.model_copy(update={"order": "RGB"})})
    build_vgg_detector(fitting, CLASSES, tmp_path / "torchvision.pth", NARROW)
    insisting = recipe.model_copy(update={"weights_order": "BGR"})
    build_vgg_detector(insisting, CLASSES, tmp_path / "torchvision.pth", NARROW)
