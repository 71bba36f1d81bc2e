"""WSOVOD: the cases of its oracle, classes from a tiny CLIP, and its proposal network."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.clip.tiny import official_state
from tests.tiny import FAST, run_here
from tests.wsod.vgg_helpers import detector_of, sample
from torch import Tensor, nn

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import Detections
from weaksam_cli.errors import UserError
from weaksam_cli.wsod.detector import FrozenDetector
from weaksam_cli.wsod.losses import wsddn_loss_of_classes, wsddn_scores
from weaksam_cli.wsod.method import Outputs, Regions, Seen
from weaksam_cli.wsod.mining import pairwise_iou
from weaksam_cli.wsod.open_vocabulary import (
    DataAware,
    batch_box_loss,
    batch_class_loss,
    best_of_image,
    labels_of,
    text_logits,
)
from weaksam_cli.wsod.proposal_network import (
    Anchored,
    ProposalNetwork,
    anchor_labels,
    box_deltas,
    centredness,
    network_boxes,
    network_losses,
)
from weaksam_cli.wsod.settings import InferenceSettings
from weaksam_cli.wsod.vgg_detector import joined_detections
from weaksam_cli.wsod.wsovod import NetworkSettings, Objectness, TextSettings, Wsovod

FORMS: tuple[Any, ...] = ("anchors", "located")
CLOSED = Wsovod(texts=TextSettings(weights=None), proposal_network=None)
FINDING, LOCATED = (
    Wsovod(
        texts=TextSettings(weights=None),
        proposal_network=NetworkSettings(form=form, least_side=8.0 * (form == "anchors"), most=30),
    )
    for form in FORMS
)


def background_first(last: Any) -> Tensor:
    """The release has background in the last column."""
    return torch.tensor(last).roll(1, dims=1)


def test_open_vocab(oracle: Any) -> None:
    case = oracle("wsovod")["open_vocab"]
    found = text_logits(
        torch.tensor(case["projected"]), torch.tensor(case["text_embedding_CxD"]), case["temperature"]
    )
    torch.testing.assert_close(found, background_first(case["logits_Cplus1"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.softmax(dim=1), background_first(case["prob"]), atol=1e-5, rtol=1e-4)
    assert not found[3].any()  # a feature of zeros


def test_data_aware(oracle: Any) -> None:
    case = oracle("wsovod")["data_aware"]
    given = {name: torch.tensor(value) for name, value in case["params"].items()}
    aware = DataAware(32, 4, 3)
    names = {"mixture.0": "linear1", "mixture.2": "linear2"}
    state = {
        f"{own}.{kind}": given[f"{name}.{kind}"] for own, name in names.items() for kind in ("weight", "bias")
    }
    aware.load_state_dict(state | {"prototypes": given["datasets_feat.weight"]})
    found = aware(torch.tensor(case["feature_map"]))
    torch.testing.assert_close(found.expand(2, 4), torch.tensor(case["output"]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("index", range(3))
def test_object_mining(oracle: Any, index: int) -> None:
    data = oracle("wsovod")["object_mining"]
    case, given = data["cases"][index], {name: torch.tensor(value) for name, value in data["params"].items()}
    features = torch.tensor(case["feature"])
    logits = [
        nn.functional.linear(features, given[f"{k}.weight"], given[f"{k}.bias"]) for k in ("cls", "det")
    ]
    scores = wsddn_scores(*logits)
    torch.testing.assert_close(scores, torch.tensor(case["score_RxC"]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.sum(dim=0), torch.tensor(case["image_prob"])[0], atol=1e-5, rtol=1e-4)
    loss = wsddn_loss_of_classes(scores, torch.tensor(case["labels"])[0])
    assert float(loss) == pytest.approx(case["loss"], abs=1e-5)


@pytest.mark.parametrize("index", range(5))
def test_pgt_top1_and_losses(oracle: Any, index: int) -> None:
    case = oracle("wsovod")["pgt_top1_and_losses"]["cases"][index]
    boxes = torch.tensor(case["boxes"]).reshape(-1, 4)
    image = torch.tensor(case["image_prob"])
    labels = torch.zeros(3).index_fill(0, torch.tensor(case["positive_classes"]), 1.0)
    scores = torch.tensor(case["score_RxCplus1"]).reshape(-1, 4)[:, :3]
    pseudo = best_of_image(scores, boxes, image, labels, 20.0)
    mined = labels_of(Regions(boxes, labels), pseudo, 0.5)
    if "fallback" not in case["name"]:
        assert torch.equal(pseudo.boxes, torch.tensor(case["gt_boxes"]))
        assert pseudo.classes.tolist() == case["gt_classes"]
        assert pseudo.scores.tolist() == pytest.approx(case["gt_weights"])
    assert [c % 4 for c in (mined.labels + 4).tolist()] == case["roi_class"]
    assert mined.weights.tolist() == pytest.approx(case["roi_weight"])
    logits = background_first(case["refine_logits"]) if len(boxes) else torch.zeros(0, 4)
    found = batch_class_loss([logits], [mined])
    # Without a proposal the published code divides 0 by 0.
    assert float(found) == pytest.approx(case["loss_cls"] or 0.0, abs=1e-5)
    deltas = torch.tensor(case["deltas"]).reshape(-1, 4)
    assert float(batch_box_loss([deltas], [Regions(boxes, labels)], [mined])) == pytest.approx(
        case["loss_box"], abs=1e-5
    )


def test_objectness_feature_weight(oracle: Any) -> None:
    """Of a segmenter's boxes, and of those of the proposal network, which count more and more in training."""
    case = oracle("wsovod")["objectness_feature_weight"]
    boxes = as_boxes([[0, 0, 9, 9], [1, 1, 8, 8]])
    stability = np.asarray(case["sam_stability"], np.float32)
    found = Proposals.from_boxes(boxes, "grid", np.asarray(case["sam_iou"], np.float32))
    found.stability[:] = stability
    seen = Seen(np.zeros((10, 10, 3), np.uint8), found, [], 3)
    values = Objectness().columns(seen)
    np.testing.assert_allclose(1 + values[:, 0], case["factor_sam"])
    found.stability[0] = np.nan
    assert Objectness().columns(seen)[0, 0] == 0
    detector = detector_of(FINDING)
    network: Any = detector.heads.get_submodule("propose")
    seen_factors: list[Tensor] = []
    detector.neck.register_forward_pre_hook(lambda _, inputs: seen_factors.append(inputs[0]))
    item = sample(2)
    item = replace(item, regions=replace(item.regions, evidence=torch.zeros(2, 1)))
    detector.progress = case["iter"] / case["max_iter"]
    for score, train, test in zip(case["rpn_score"], case["factor_train"], case["factor_test"], strict=True):
        with torch.no_grad():
            network.objectness.weight.zero_()
            network.objectness.bias.fill_(score)
        for factor in (train, test):
            (outputs,) = detector.train(factor == train).outputs(
                [replace(item, regions=replace(item.regions, progress=detector.progress))]
            )
            added = outputs.regions[0].evidence
            assert added is not None and len(added) > 2 and not added[:2].any()
            torch.testing.assert_close(1 + added[2:], torch.full_like(added[2:], factor))


def test_rpn_v2(oracle: Any) -> None:
    case = oracle("wsovod")["rpn_v2"]
    anchors, seeds = torch.tensor(case["anchors"]), torch.tensor(case["pgt_boxes"])
    torch.testing.assert_close(pairwise_iou(seeds, anchors), torch.tensor(case["iou"]), atol=1e-6, rtol=1e-5)
    settings = NetworkSettings()
    labels, _ = anchor_labels(anchors, seeds, settings.positive, settings.negative)
    assert labels.tolist() == case["labels"]
    found = Anchored(anchors, torch.tensor(case["objectness_logits"])[0], torch.tensor(case["deltas"])[0])
    losses = network_losses(found, seeds, settings)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    for name, value in losses.items():
        assert float(value) == pytest.approx(case[name], abs=1e-6)
    assert not any(float(item) for item in network_losses(found, seeds[:0], settings).values())


def test_lo_wsrpn_centreness(oracle: Any) -> None:
    """Anchors whose centre is outside have none, where the release has one for those outside on both axes."""
    case = oracle("wsovod")["lo_wsrpn_centreness"]
    anchors, boxes = torch.tensor(case["anchors"]), torch.tensor(case["boxes"])
    deltas = box_deltas(boxes, anchors, located=True)
    torch.testing.assert_close(deltas, torch.tensor(case["deltas"]))
    found, inside = centredness(deltas)
    assert inside.tolist() == [True, True, True, True, False, False]
    assert found[:4].tolist() == pytest.approx(case["centreness_sqrt"][:4], abs=1e-6)
    example = case["score_example"]
    logits, quality = torch.tensor(example["cls_logit"]), torch.tensor(example["obj_logit"])
    said = Anchored(anchors[:3], logits, deltas[:3], quality)
    assert said.scores().tolist() == pytest.approx(example["score"], abs=1e-6)
    settings = NetworkSettings(form="located", least_side=0.0, nms=1.0)
    again, scores = network_boxes(said, (100, 100), settings)
    torch.testing.assert_close(again, boxes[:3])
    assert scores.tolist() == pytest.approx(sorted(example["score"], reverse=True))
    near = replace(said, anchors=boxes[:1] + torch.tensor([[0.0], [2.0], [4.0]]))
    losses = network_losses(near, boxes[:1], settings)
    shifted = [1.0, 23 / 27, 21 / 29]  # centres lie 0, 2 and 4 of 25 off, in both axes
    expected = sum(abs(float(q.sigmoid()) - own) for q, own in zip(quality, shifted, strict=True))
    assert float(losses["loss_rpn_obj"]) == pytest.approx(expected / 512, abs=1e-7)
    assert not any(float(item) for item in network_losses(said, boxes[:0], settings).values())


def test_anchors_and_their_boxes() -> None:
    network = ProposalNetwork(4, NetworkSettings(sizes=(32.0, 64.0), ratios=(1.0, 2.0)))
    found = network(torch.rand(2, 4, 3, 5)).of_image(1)
    assert found.anchors.shape == (3 * 5 * 4, 4) and found.logits.shape == (60,)
    assert found.anchors[0].tolist() == [-16, -16, 16, 16]  # of the first cell
    assert found.anchors[4].tolist() == [-8, -16, 24, 16] and found.anchors[20].tolist() == [-16, -8, 16, 24]
    sides = found.anchors[1, 2:] - found.anchors[1, :2]
    assert float(sides.prod()) == pytest.approx(32**2) and float(sides[1] / sides[0]) == pytest.approx(2)
    plain = Anchored(found.anchors, found.logits, torch.zeros(60, 4))
    boxes, objectness = network_boxes(plain, (24, 40), NetworkSettings(least_side=16.0, most=3))
    assert 0 < len(boxes) <= 3 and bool((objectness.diff() <= 0).all())
    assert bool((boxes[:, :2] >= 0).all()) and bool((boxes[:, 2:] <= torch.tensor([40.0, 24.0])).all())
    assert bool(((boxes[:, 2:] - boxes[:, :2]) > 16).all())
    none, _ = network_boxes(plain, (24, 40), NetworkSettings(least_side=50.0))
    assert none.shape == (0, 4)
    cells = ProposalNetwork(4, NetworkSettings(form="located"))(torch.rand(2, 4, 3, 5)).of_image(0)
    assert cells.anchors[6].tolist() == [8, 8, 16, 16] and len(cells.anchors) == 15


@pytest.mark.parametrize("method", [FINDING, LOCATED], ids=FORMS)
@pytest.mark.parametrize("counts", [(0,), (1,), (7, 0)])
@pytest.mark.parametrize("present", [(), (1,)])
def test_boxes_of_the_network_join_and_teach(
    method: Wsovod, counts: tuple[int, ...], present: tuple[int, ...]
) -> None:
    detector = detector_of(method).train()
    losses: Any = detector([sample(n, present=present) for n in counts])
    assert {"loss_rpn_cls", "loss_rpn_loc"} <= set(losses)
    assert ("loss_rpn_obj" in losses) == (method is LOCATED)
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    network: Any = detector.heads.get_submodule("propose")
    # A fresh network of cells finds boxes without area, of which none is a seed.
    taught = bool(present) and (method is FINDING or any(counts))
    assert bool(network.objectness.weight.grad.any()) == taught
    answers: Any = detector.eval()([sample(n) for n in counts])
    for answer, count in zip(answers, counts, strict=True):
        assert count < len(answer.boxes) == len(answer.scores) <= count + 30


def test_views_with_boxes_of_their_own_are_joined() -> None:
    """A box that two views find is one detection; what one alone finds stays."""
    same, other = [0.0, 0, 20, 20], [40.0, 0, 60, 20]
    views = [
        Detections(as_boxes([same, other]), np.asarray([1, 0], np.int32), np.asarray([0.5, 0.2], np.float32)),
        Detections(as_boxes([same]), np.asarray([1], np.int32), np.asarray([0.7], np.float32)),
    ]
    found = joined_detections(views, InferenceSettings(nms=0.3))
    assert found.class_index.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.2, 0.7])
    assert len(joined_detections([views[0].take(np.zeros(0, np.int64))], InferenceSettings())) == 0


def test_the_whole_oracle_is_met(oracle: Any) -> None:
    data = oracle("wsovod")
    named = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {name for name in data if isinstance(data[name], dict)} <= named


def test_objectness_and_the_image_reach_the_features() -> None:
    seen: list[Tensor] = []
    detector = detector_of(CLOSED).eval()
    detector.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plain = sample(6)
    scaled = sample(6)
    object.__setattr__(scaled.regions, "evidence", torch.full((6, 1), 0.5))
    detector([plain])
    detector([scaled])
    torch.testing.assert_close(seen[1], 1.5 * seen[0])
    aware: Any = detector.heads.get_submodule("aware")
    (before,) = detector([plain])
    with torch.no_grad():
        aware.prototypes.add_(5)
    (after,) = detector([plain])
    assert not torch.allclose(before.scores, after.scores)


def test_classes_are_embedded_by_clip(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save(official_state(), path)
    method = Wsovod(
        texts=TextSettings(weights=str(path), size=32),
        objectness=False,
        prototypes=None,
        proposal_network=None,
    )
    detector = FrozenDetector(method, torch.ones(2, 5), 2)
    method.start(detector, ["cat", "potted plant"], {"clip": path})
    texts: Any = detector.heads.get_submodule("texts")
    torch.testing.assert_close(texts.weight.norm(dim=1), torch.ones(2))
    assert not torch.allclose(texts.weight[0], texts.weight[1]) and not texts.weight.requires_grad
    wide = method.model_copy(update={"texts": TextSettings(weights=str(path))})
    with pytest.raises(UserError, match="its embeddings have 32 numbers"):
        wide.start(FrozenDetector(wide, torch.ones(2, 5), 2), ["cat", "dog"], {"clip": path})


def test_branches_after_the_first_learn_from_regressed_boxes() -> None:
    method = CLOSED.model_copy(
        update={"mining": CLOSED.mining.model_copy(update={"branch_weights": (1.0, 2.0)})}
    )
    boxes = torch.tensor([[0.0, 0, 20, 20], [50, 50, 90, 90]])
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 3, generator=generator) for _ in range(2)]
    refined = torch.tensor([[0.0, 5, 0, 0], [0, 0, 0, 0]]), torch.zeros(2, 4)
    moved = torch.tensor([[25.0, 25.0, 0, 0], [0, 0, 0, 0]])  # by two and a half sides: onto the second
    outputs = Outputs(logits[0], logits[1], refined, (moved, torch.zeros(2, 4)))
    labels = torch.tensor([1.0, 0, 0])
    found = method.batch_losses([outputs], [Regions(boxes, labels)])
    assert set(found) == {"loss_img"} | {f"loss_ref_{kind}{i}" for kind in ("cls", "reg") for i in (0, 1)}
    assert all(torch.isfinite(value) for value in found.values())
    # The seed of the second branch is at (50, 50, 70, 70): no proposal reaches half of it, and nothing regresses.
    assert float(found["loss_ref_reg1"]) == 0


def test_a_run_takes_clip_by_file(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is an input of the training: the model has its embeddings, and is stale when it changes."""
    monkeypatch.chdir(finished)
    (finished / "weights").mkdir(exist_ok=True)
    torch.save(official_state(), "weights/clip.pt")
    changes = (*FAST["wsod"], "texts.weights=clip.pt", "texts.size=32", "schedule.epochs=1")
    command = (
        "wsod",
        "--recipe",
        "wsovod-lite0",
        "--variant",
        "clip",
        "--dataset",
        "tiny",
        "--device",
        "cpu",
    )
    sets = [word for change in changes for word in ("--set", change)]
    result = run_here(*command, "--workers", "1", "--split", "trainval", *sets)
    assert result.exit_code == 0, result.output
    model = finished / "runs" / "tiny" / "wsod@clip" / "model.safetensors"
    texts = load_file(model)["heads.texts.weight"]
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(len(texts)))
    torch.save(official_state(1), "weights/clip.pt")
    again = run_here(*command, "--split", "trainval", *sets, "--dry-run")
    assert re.search(r"model.safetensors: stale; input \S*clip.pt changed", again.output), again.output
