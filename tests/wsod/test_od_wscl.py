"""OD-WSCL: every case of its oracle, and images of few proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.wsod.vgg_helpers import detector_of, sample
from torch import Tensor

from weaksam_cli.wsod.drop_block import block_mask, masked
from weaksam_cli.wsod.losses import encode
from weaksam_cli.wsod.method import Outputs, Regions
from weaksam_cli.wsod.mining import assign, pairwise_iou
from weaksam_cli.wsod.object_discovery import (
    Discovery,
    Embedded,
    contrastive_loss,
    discover,
    discovered_pseudo_boxes,
    hide_blocks,
    passes,
    thinned,
    unit_vectors,
)
from weaksam_cli.wsod.od_wscl import ContrastSettings, MiningSettings, OdWscl

RULES = {
    "loss_sim_code_order": ("release", "release"),
    "loss_sim_aligned_difficulty": ("release", "aligned"),
    "loss_sim_aligned_and_intended_multilabel_rule": ("and", "aligned"),
}


def edges(inclusive: Any) -> Tensor:
    return torch.tensor(inclusive) + torch.tensor([0.0, 0, 1, 1])


@pytest.mark.parametrize("index", range(4))
def test_contrastive_loss(oracle: Any, index: int) -> None:
    whole = oracle("od_wscl")["contrastive_loss"]
    case = whole["cases"][index]
    parts = case["embeddings_by_class"]
    embeddings = torch.tensor([row for part in parts for row in part], requires_grad=True)
    classes = torch.tensor([number for number, part in enumerate(parts) for _ in part])
    found = contrastive_loss(embeddings, classes, torch.tensor(case["difficulty"]), whole["temperature"])
    if case["supconv2"] == "inf":  # a class of one sample, which the published code cannot take
        assert 0 < float(found.detach()) < math.inf
        return
    assert float(found.detach()) == pytest.approx(case["supconv2"], abs=1e-5)
    found.backward()
    expected = torch.tensor([row for part in case["grad_supconv2"] for row in part])
    torch.testing.assert_close(embeddings.grad, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("index", range(4))
def test_od_layer(oracle: Any, index: int) -> None:
    whole = oracle("od_wscl")["od_layer"]
    case, boxes = whole["cases"][index], edges(whole["boxes_xyxy"])
    scores = torch.tensor(whole["source_score_R_x_C1"])[:, 1:]
    labels = torch.tensor(case.get("image_labels", whole["image_labels"]))[1:]
    found = {
        c: torch.tensor(case["discovered_by_class"][c], dtype=torch.int64)
        for c in labels.nonzero().flatten().tolist()
    }
    mined = assign(boxes, discovered_pseudo_boxes(found, scores, boxes), above=True)
    assert (mined.labels + 1).tolist() == case["pseudo_labels"]
    assert mined.weights.tolist() == pytest.approx(case["loss_weights"])
    if "regression_targets" in case:
        targets = encode(mined.matched, boxes)
        torch.testing.assert_close(targets, torch.tensor(case["regression_targets"]), atol=1e-4, rtol=1e-4)


def test_sampling(oracle: Any) -> None:
    data = oracle("od_wscl")
    boxes, scores = (
        edges(data["od_layer"]["boxes_xyxy"]),
        torch.tensor(data["od_layer"]["source_score_R_x_C1"]),
    )
    for case in data["sampling"]["iou_sampling"]:
        only = torch.zeros(len(boxes), 1)
        only[case["top"]] = 1
        item = Embedded(boxes, [0], [only], torch.zeros(len(boxes), 2), [])
        rows = item.near(0, case["threshold"]).nonzero().flatten()
        assert rows.tolist() == case["indices"]
        overlaps = pairwise_iou(boxes[case["top"]][None], boxes[rows])[0]
        assert overlaps.tolist() == pytest.approx(case["iou"], abs=1e-6)
    for case in data["sampling"]["easy_nms"]:
        candidates = torch.zeros(len(boxes), dtype=torch.bool)
        candidates[case["candidates"]] = True
        assert (
            thinned(candidates, scores[:, case["score_column"]], boxes, case["nms_iou"]).tolist()
            == case["kept"]
        )


def test_bool_ge_quirk(oracle: Any) -> None:
    case = oracle("od_wscl")["bool_ge_quirk"]
    own, other = torch.tensor(case["top_similarity"]), torch.tensor(case["other_class_top_similarity"])
    threshold = torch.tensor(case["threshold"])
    assert passes(own, threshold, [other], "release").tolist() == case["kept"]
    assert passes(own, threshold, [other], "and").tolist() == ((own >= threshold) & (own >= other)).tolist()


def test_dropblock_mask(oracle: Any) -> None:
    case = oracle("od_wscl")["dropblock_mask"]
    assert block_mask(torch.tensor(case["seed_mask"]), 3).tolist() == case["keep_mask_size3"]
    assert case["gamma_size3"] == pytest.approx(0.3 / 9) and case["gamma_size1"] == 0.3


@pytest.mark.parametrize("block", [1, 3])
def test_hidden_cells(block: int) -> None:
    torch.manual_seed(0)
    pooled = torch.ones(400, 2, 7, 7)
    found = hide_blocks(pooled, 0.3, block)
    hidden = (found[:, 0] == 0).float()
    assert float(hidden.mean()) == pytest.approx(0.3, abs=0.1)
    assert torch.equal(found[:, 0], found[:, 1])
    assert float(found.mean()) == pytest.approx(1, rel=1e-4)
    assert hide_blocks(pooled[:0], 0.3, block).shape == (0, 2, 7, 7)


def images_of(data: dict[str, Any], case: dict[str, Any]) -> list[tuple[Outputs, Regions]]:
    """Of a case of `whole_loss`, whose copies were made with fixed tensors in place of random ones."""
    whole = data["whole_loss"]
    neck, weight = torch.tensor(case["neck_weight"]), torch.tensor(case["embed_weight"])

    def embed(pooled: Tensor) -> Tensor:
        return unit_vectors(F.relu(pooled.flatten(1) @ neck) @ weight + torch.tensor(case["embed_bias"]))

    pooled = torch.tensor(case["pooled_features"])
    keep = torch.tensor(whole["drop_mask_3x3_times_9_over_7"])
    extra = {
        "clean": embed(pooled),
        "hidden": embed(masked(pooled, keep.expand(len(pooled), 3, 3))),
        "noisy": embed(pooled * (1 + torch.tensor(whole["noise_2x3x3"]))),
    }
    torch.testing.assert_close(extra["clean"], torch.tensor(case["embeddings"]), atol=1e-5, rtol=1e-4)
    batch = Outputs(
        torch.tensor(case["cls_logits"]),
        torch.tensor(case["det_logits"]),
        tuple(torch.tensor(item) for item in case["ref_logits"]),
        tuple(torch.tensor(item) for item in case["bbox_pred"]),
        extra,
    )
    found, start, boxes = [], 0, edges(data["od_layer"]["boxes_xyxy"])
    for count, present in zip(case["R"], case["positive_labels"], strict=True):
        labels = torch.zeros(3)
        labels[torch.tensor(present) - 1] = 1
        found.append((batch.rows(start, start + count), Regions(boxes[:count], labels)))
        start += count
    return found


def method_of(case: dict[str, Any], cross_class: Any, difficulty: Any) -> OdWscl:
    mining = MiningSettings(near_iou=case["thres"], overlap=case["nms"], cross_class=cross_class)
    contrast = ContrastSettings(weight=case["lmda"], difficulty=difficulty)
    return OdWscl(mining=mining, contrast=contrast)


@pytest.mark.parametrize("index", range(3))
def test_whole_loss(oracle: Any, index: int) -> None:
    """The published code, with its two accidents switched on; then each of them switched off."""
    data = oracle("od_wscl")
    case = data["whole_loss"]["cases"][index]
    outputs, regions = zip(*images_of(data, case), strict=True)
    losses = method_of(case, "release", "release").batch_losses(outputs, regions)
    assert set(losses) == set(case["losses"])
    for name, value in case["losses"].items():
        assert float(losses[name]) == pytest.approx(value, abs=1e-4 if name != "loss_sim" else 1e-6), name
    for name, rules in RULES.items():
        found = method_of(case, *rules).batch_losses(outputs, regions)["loss_sim"]
        assert float(found) == pytest.approx(case["rederived"][name], abs=1e-6), name


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(("name", "rule"), [("mining_code_rule", "release"), ("mining_intended_rule", "and")])
def test_discovery(oracle: Any, index: int, name: str, rule: str) -> None:
    data = oracle("od_wscl")
    case = data["whole_loss"]["cases"][index]
    found = discovery_of(method_of(case, rule, "aligned"), images_of(data, case))
    expected = [
        (item["image"], item["branch"], item["class_index"], item["discovered"])
        for item in case["rederived"][name]
    ]
    assert [
        (image, branch, c, rows.tolist())
        for image, branches in enumerate(found.found)
        for branch, objects in enumerate(branches)
        for c, rows in objects.items()
    ] == expected


def discovery_of(method: OdWscl, images: Sequence[tuple[Outputs, Regions]]) -> Discovery:
    return discover(
        [method._embedded(*image) for image in images],
        near_iou=method.mining.near_iou,
        nms_iou=method.mining.overlap,
        cross_class=method.mining.cross_class,
        difficulty=method.contrast.difficulty,
        temperature=method.contrast.temperature,
    )


@pytest.mark.parametrize("present", [(), (1,), (0, 2)])
@pytest.mark.parametrize("counts", [(0,), (1,), (2,), (0, 0), (7, 0), (1, 2)])
def test_few_proposals(counts: tuple[int, ...], present: tuple[int, ...]) -> None:
    """Losses are finite and gradient reaches the embedding, unless there is nothing to compare."""
    detector = detector_of(OdWscl()).train()
    losses: Any = detector([sample(n, present=present) for n in counts])
    names = {"loss_img", "loss_sim"} | {f"loss_ref_{kind}{i}" for kind in ("cls", "reg") for i in range(3)}
    assert set(losses) == names and all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    gradients = [item.grad for item in detector.parameters() if item.grad is not None]
    assert all(torch.isfinite(value).all() for value in gradients)
    assert (float(losses["loss_sim"].detach()) > 0) == (len(present) == 2 and any(counts))
