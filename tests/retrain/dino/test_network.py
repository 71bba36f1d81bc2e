"""DINO's network and losses against Deformable DETR of transformers, and what its own parts have to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.models.deformable_detr import modeling_deformable_detr as parts

from weaksam_cli.retrain.dino.denoising import noisy_queries
from weaksam_cli.retrain.dino.losses import Targets, layer_losses, matched, wanted_of
from weaksam_cli.retrain.dino.network import (
    DinoTransformer,
    Maps,
    Outputs,
    box_positions,
    cell_positions,
    cell_proposals,
)
from weaksam_cli.retrain.dino.settings import Denoising, LossWeights, Network

CLASSES, HEIGHT, WIDTH = 3, 64, 96
SETTINGS = Network(
    channels=32, heads=4, points=2, encoder_layers=2, decoder_layers=3, feedforward=48, queries=9, levels=4
)
TARGETS = [
    Targets(torch.tensor([[0.5, 0.4, 0.3, 0.2], [0.2, 0.3, 0.1, 0.4]]), torch.tensor([1, 0])),
    Targets(torch.tensor([[0.6, 0.6, 0.5, 0.5]]), torch.tensor([2])),
]


# parity


class DeformableDetr(DinoTransformer):
    """DINO's transformer with its additions switched off: what is left is two-stage Deformable DETR."""

    def __init__(self, reference: Any) -> None:
        super().__init__([16, 24, 32], SETTINGS, CLASSES)
        model = reference.model
        # A query's content and position come from its proposal alone, and stay as they are in all layers.
        self.reference, self.fixed = [model], torch.zeros(0)
        decoder: Any = self.decoder
        decoder.norm, decoder.query_positions = nn.Identity(), lambda _: self.fixed
        for ours, theirs in (
            (self.encoder, model.encoder),
            (self.decoder.layers, model.decoder.layers),
            (self.class_heads, reference.class_embed),
            (self.box_heads, reference.bbox_embed),
            (self.enc_output, model.enc_output),
            (self.enc_output_norm, model.enc_output_norm),
        ):
            ours.load_state_dict(theirs.state_dict())
        self.projection.layers = model.input_proj
        self.level_embed.data.copy_(model.level_embed.data)

    def cell_positions(self, valid: Tensor) -> Tensor:
        return cell_positions(valid, SETTINGS.channels, 10_000, offset=-0.5)

    def select(self, memory: Tensor, maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
        """By the first class alone; content and position are made of the proposals."""
        logits, box_logits = self.propose(memory, maps)
        best = logits[..., 0].topk(SETTINGS.queries, dim=1).indices[..., None]
        chosen = box_logits.gather(1, best.expand(-1, -1, 4))
        model = self.reference[0]
        made = model.pos_trans_norm(model.pos_trans(model.get_proposal_pos_embed(chosen.detach())))
        self.fixed, content = made.split(SETTINGS.channels, dim=2)
        return content, chosen, logits.gather(1, best.expand(-1, -1, CLASSES))


@pytest.fixture(scope="module")
def reference() -> Any:
    torch.manual_seed(0)
    configurations: tuple[Any, Any] = ResNetConfig, DeformableDetrConfig
    backbone = configurations[0](
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = configurations[1](
        backbone_config=backbone, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, dropout=0.0, num_queries=9,
        two_stage_num_proposals=9, num_feature_levels=4, encoder_n_points=2, decoder_n_points=2, two_stage=True,
        with_box_refine=True, auxiliary_loss=True, num_labels=CLASSES, class_cost=2,
    )  # fmt: skip
    model = DeformableDetrForObjectDetection(config).eval()
    for parameter in model.parameters():  # where all boxes begin as zeros, an error would not show
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Pixels, and what of them is no padding."""
    torch.manual_seed(1)
    valid = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    valid[1, 40:], valid[1, :, 70:] = False, False
    return torch.randn(2, 3, HEIGHT, WIDTH) * valid[:, None], valid


def look(model: DeformableDetr, reference: Any, images: tuple[Tensor, Tensor]) -> Outputs:
    pixels, valid = images
    features = [item for item, _ in reference.model.backbone(pixels, valid)]
    found: Outputs = model(features, valid)
    return found


def test_equal_outputs(reference: Any, images: tuple[Tensor, Tensor]) -> None:
    pixels, valid = images
    with torch.no_grad():
        expected = reference(pixels, pixel_mask=valid.long())
        found = look(DeformableDetr(reference).eval(), reference, images)
    torch.testing.assert_close(found.logits[-1], expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.encoder_boxes, expected.init_reference_points, atol=1e-5, rtol=1e-4)


def test_equal_losses(reference: Any, images: tuple[Tensor, Tensor]) -> None:
    pixels, valid = images
    labels = [{"class_labels": item.classes, "boxes": item.boxes} for item in TARGETS]
    weights, costs = LossWeights(classes=1.0), LossWeights(classes=2.0)
    with torch.no_grad():
        expected = reference(pixels, pixel_mask=valid.long(), labels=labels)
        found = look(DeformableDetr(reference).eval(), reference, images)
        losses = [
            layer_losses(
                logits.flatten(0, 1),
                boxes.flatten(0, 1),
                wanted_of(matched(logits, boxes, TARGETS, costs), TARGETS, 9, CLASSES),
                weights,
            )
            for logits, boxes in zip(found.logits, found.boxes, strict=True)
        ]
    names = {"cls": ("loss_ce", 1.0), "l1": ("loss_bbox", 5.0), "giou": ("loss_giou", 2.0)}
    for suffix, layer in (("_0", losses[0]), ("_1", losses[1]), ("", losses[2])):
        for ours, (theirs, weight) in names.items():
            told = float(expected.loss_dict[f"{theirs}{suffix}"]) * weight
            assert float(layer[ours]) == pytest.approx(told, rel=1e-4), f"{ours}{suffix}"
    total = sum(float(value) for layer in losses for value in layer.values())
    assert total == pytest.approx(float(expected.loss), rel=1e-4)


# DINO's own parts


def transformer(**changes: Any) -> DinoTransformer:
    torch.manual_seed(2)
    model = DinoTransformer([8, 16], SETTINGS.model_copy(update=changes), CLASSES)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def features(height: int = 8, width: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, 8, height, width, generator=generator),
        torch.randn(2, 16, height // 2, width // 2, generator=generator),
    ]


def test_position_of_a_box_is_that_of_transformers() -> None:
    """In its place, though in another order: y, x, width, height (the authors' checkpoints want it so)."""
    boxes = torch.rand(2, 5, 4)
    theirs = parts.DeformableDetrModel.get_proposal_pos_embed
    config = DeformableDetrConfig(d_model=32)
    holder: Any = type("Holder", (), {"config": config})()
    expected = theirs(holder, torch.logit(boxes)).split(16, dim=2)
    for found, place in zip(box_positions(boxes, 32).split(16, dim=2), (1, 0, 2, 3), strict=True):
        torch.testing.assert_close(found, expected[place], atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing() -> None:
    """An image says the same alone and beside a larger one."""
    model = transformer(levels=2).eval()
    small = [item[:1] for item in features()]
    large = [torch.randn(1, 8, 12, 20), torch.randn(1, 16, 6, 10)]
    both = []
    for one, other in zip(small, large, strict=True):
        joined = torch.cat([torch.randn_like(other), other])
        joined[0, :, : one.shape[2], : one.shape[3]] = one[0]
        both.append(joined)
    # Without what sees the padding by design: the group normalisation of every DETR, and the position of a query, which the
    # authors' decoder tells as a share of the padded map.
    decoder: Any = model.decoder
    decoder.query_positions = lambda boxes: torch.zeros(len(boxes), 9, 32)
    for layer in model.projection.layers:
        layer[1] = nn.Identity()  # type: ignore[operator]
    valid = torch.zeros(2, 96, 160, dtype=torch.bool)
    valid[0, :64, :96], valid[1] = True, True
    with torch.no_grad():
        alone = model(small, torch.ones(1, 64, 96, dtype=torch.bool))
        beside = model(both, valid)
    torch.testing.assert_close(beside.encoder_boxes[0], alone.encoder_boxes[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(beside.logits[-1][0], alone.logits[-1][0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(beside.boxes[-1][0], alone.boxes[-1][0], atol=1e-4, rtol=1e-3)


def test_cells_of_the_padding_propose_nothing() -> None:
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[:, :, 2:] = False
    maps = Maps(
        torch.zeros(1, 16, 8),
        torch.zeros(1, 16, 8),
        valid.flatten(1),
        [(4, 4)],
        torch.tensor([[[0.5, 1.0]]]),
    )
    found = torch.isfinite(cell_proposals(maps)).all(dim=2)[0].view(4, 4)
    assert torch.equal(found, valid[0])
    centres = cell_proposals(maps)[0].view(4, 4, 4)[0, :2].sigmoid()
    torch.testing.assert_close(centres[:, 0], torch.tensor([0.25, 0.75]))  # of the two valid columns


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 12)])
def test_fewer_cells_than_queries(size: tuple[int, int]) -> None:
    model = transformer(queries=100)
    valid = torch.ones(2, size[0] * 8, size[1] * 8, dtype=torch.bool)
    noise = noisy_queries(TARGETS, nn.Embedding(CLASSES + 1, 32), 100, Denoising(queries=4))
    assert noise is not None
    found = model(features(*size), valid, noise[0])
    cells = found.encoder_logits.shape[1]
    assert cells <= 100
    assert found.logits[-1].shape[1] == noise[0].content.shape[1] + cells


def test_look_forward_twice() -> None:
    """The loss of a layer's boxes reaches the offsets of the layer before, and of no earlier one."""
    model = transformer()
    found = model(features(), torch.ones(2, 64, 96, dtype=torch.bool))
    heads = [head.layers[-1].bias for head in model.box_heads]  # type: ignore[index, union-attr]
    found.boxes[2].sum().backward()
    reached = [head.grad is not None and bool(head.grad.abs().sum() > 0) for head in heads]
    assert reached == [False, True, True, False]


def test_denoising_queries_are_not_seen() -> None:
    model = transformer().eval()
    valid = torch.ones(2, 64, 96, dtype=torch.bool)
    torch.manual_seed(4)
    classes = nn.Embedding(CLASSES + 1, 32)
    noise = noisy_queries(TARGETS, classes, 9, Denoising(queries=6))
    assert noise is not None
    with torch.no_grad():
        plain, noisy = model(features(), valid), model(features(), valid, noise[0])
    torch.testing.assert_close(noisy.logits[-1][:, -9:], plain.logits[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(noisy.boxes[-1][:, -9:], plain.boxes[-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("objects", "queries"), [((2, 1), 6), ((1, 0), 5), ((3, 3), 1), ((7, 2), 100)])
def test_what_denoising_queries_are_to_become(objects: Sequence[int], queries: int) -> None:
    """Positive ones lie near their object, in as many groups as fit; images may have fewer objects, or none."""
    torch.manual_seed(5)
    targets = [
        Targets(torch.rand(count, 4) * 0.2 + 0.3, torch.randint(0, CLASSES, (count,))) for count in objects
    ]
    found = noisy_queries(targets, nn.Embedding(CLASSES + 1, 32), 9, Denoising(queries=queries))
    assert found is not None
    noisy, matches = found
    groups = max(queries // max(objects), 1)
    assert noisy.content.shape[1] == 2 * groups * max(objects)
    for (positive, of), item, boxes in zip(matches, targets, noisy.box_logits.sigmoid(), strict=True):
        assert len(positive) == len(of) == groups * len(item.classes)
        near = (boxes[positive] - item.boxes[of]).abs()
        assert (near[:, :2] <= item.boxes[of][:, 2:] / 2 + 1e-4).all()


@pytest.mark.parametrize("settings", [Denoising(queries=0), Denoising(queries=5)])
def test_no_denoising(settings: Denoising) -> None:
    nothing = [Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2
    targets = nothing if settings.queries else TARGETS
    assert noisy_queries(targets, nn.Embedding(CLASSES + 1, 32), 9, settings) is None


@pytest.mark.parametrize(
    "noise", [{"box_noise": 0.0}, {"label_noise": 0.0}, {"box_noise": 0.0, "label_noise": 0.0}]
)
def test_denoising_without_noise(noise: dict[str, float]) -> None:
    classes = nn.Embedding(CLASSES + 1, 32)
    found = noisy_queries(TARGETS, classes, 9, Denoising(queries=4, **noise))
    assert found is not None
    noisy, matches = found
    for image, (positive, of) in enumerate(matches):
        if "box_noise" in noise:
            boxes = noisy.box_logits[image, positive].sigmoid()
            torch.testing.assert_close(boxes, TARGETS[image].boxes[of], atol=1e-4, rtol=1e-4)
        if "label_noise" in noise:
            assert torch.equal(noisy.content[image, positive], classes(TARGETS[image].classes[of]))


# losses


def test_dropped_queries_count_nothing_and_divide_as_before() -> None:
    torch.manual_seed(6)
    logits, boxes = torch.randn(2, 9, CLASSES), torch.rand(2, 9, 4) * 0.5 + 0.2
    matches = matched(logits, boxes, TARGETS, LossWeights(classes=2.0))
    wanted = wanted_of(matches, TARGETS, 9, CLASSES)
    weights = LossWeights(classes=1.0)
    rows = logits.flatten(0, 1).requires_grad_(), boxes.flatten(0, 1).requires_grad_()
    full = layer_losses(*rows, wanted, weights)
    dropped = torch.zeros(18, dtype=torch.bool)
    dropped[wanted.rows[0]] = True
    found = layer_losses(*rows, wanted, weights, dropped)
    gone = {name: float((full[name] - found[name]).detach()) for name in full}
    assert all(value > 0 for value in gone.values())
    single = wanted_of(
        [(matches[0][0][:1], matches[0][1][:1]), (matches[1][0][:0],) * 2], TARGETS, 9, CLASSES
    )
    own = layer_losses(rows[0].detach(), rows[1].detach(), single, weights)
    for name in ("l1", "giou"):
        assert gone[name] == pytest.approx(float(own[name]) / 3, rel=1e-5)
    sum(found.values(), torch.zeros(())).backward()
    for item in rows:
        assert item.grad is not None
        assert not item.grad[wanted.rows[0]].any()
        assert item.grad[wanted.rows[1]].any()


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 2), (6, 7)])
def test_images_with_few_objects(counts: Sequence[int]) -> None:
    torch.manual_seed(7)
    targets = [
        Targets(torch.rand(count, 4) * 0.2 + 0.3, torch.randint(0, CLASSES, (count,))) for count in counts
    ]
    logits, boxes = torch.randn(2, 7, CLASSES), torch.rand(2, 7, 4) * 0.5 + 0.2
    matches = matched(logits, boxes, targets, LossWeights(classes=2.0))
    assert [len(queries) for queries, _ in matches] == list(counts)
    wanted = wanted_of(matches, targets, 7, CLASSES)
    losses = layer_losses(logits.flatten(0, 1), boxes.flatten(0, 1), wanted, LossWeights(classes=1.0))
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    assert (float(losses["l1"]) > 0) == (sum(counts) > 0)


def test_what_is_not_finite_is_told() -> None:
    boxes = torch.rand(2, 7, 4)
    boxes[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError):
        matched(torch.randn(2, 7, CLASSES), boxes, TARGETS, LossWeights(classes=2.0))
