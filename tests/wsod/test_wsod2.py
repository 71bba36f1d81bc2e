"""WSOD2 against its release: bottom-up evidence, weights, targets and losses (oracle wsod2.json)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.wsod.test_losses import edges

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.wsod.losses import encode
from weaksam_cli.wsod.method import Outputs, Regions, Seen
from weaksam_cli.wsod.oicr import MiningSettings
from weaksam_cli.wsod.wsod2 import SuperpixelSettings, Wsod2, straddling

RELEASED = Wsod2(mining=MiningSettings(inclusive=True, weights="one"), fade=0.5)
TRAIN_STEPS = ["nine boxes, classes 0 and 2", "alpha 1: weights all one", "two boxes", "one box"]


@pytest.fixture
def published(oracle: Any) -> Any:
    return oracle("wsod2")


def test_cal_bu(published: Any) -> None:
    segments = np.asarray(published["cal_bu"]["segment_ids"], np.int32)
    for case in published["cal_bu"]["cases"]:
        scaled = np.asarray(case["rois_batch_xyxy"], np.float32)[:, 1:] / np.float32(case["scale_factor"])
        found = straddling(edges(scaled).numpy(), segments)
        np.testing.assert_allclose(found, case["bu"], atol=1e-5, err_msg=case["name"])


def test_cal_bu_of_the_mirrored_image_is_that_of_the_image(published: Any) -> None:
    """The release looks at the unmirrored map with mirrored boxes; evidence at the image's own size does not."""
    segments = np.asarray(published["cal_bu"]["segment_ids"], np.int32)
    flip, plain = published["cal_bu"]["flip"], published["cal_bu"]["cases"][0]
    mirrored = np.asarray(flip["rois_mirrored"], np.float32)[:, 1:]
    released = straddling(edges(mirrored).numpy(), segments)
    np.testing.assert_allclose(released, flip["bu_released"], atol=1e-5)
    boxes = edges(np.asarray(plain["rois_batch_xyxy"], np.float32)[:, 1:]).numpy()
    np.testing.assert_allclose(straddling(boxes, segments), flip["bu_correct"], atol=1e-5)


def test_alpha_schedule(published: Any) -> None:
    case = published["alpha_schedule"]
    method, total = Wsod2(fade=case["steps"] / 80_000), 80_000
    found = [method.alpha(step / total) for step in case["t"]]
    assert found == pytest.approx(case["alpha"], abs=case["tolerance"])


def superpixels(case: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """As the file paints them, in order; its corners are inclusive."""
    segments = np.zeros(case["shape_hw"], np.int32)
    segments[75:] = 1
    painted = [line.split() for line in case["painted_in_order"][2:]]
    for number, rows, columns in painted:
        (top, bottom), (left, right) = (map(int, item[1:].split("-")) for item in (rows, columns))
        segments[top : bottom + 1, left : right + 1] = int(number)
    return segments


def released_outputs(case: dict[str, Any]) -> Outputs:
    """Logits whose softmaxes are the case's probabilities; for the streams see `given_scores`."""
    refined = tuple(torch.tensor(values).log() for values in case["refine_probs"])
    scores = torch.tensor(case["wsddn_scores"])
    return Outputs(scores, scores, refined, (torch.tensor(case["bbox_pred"]),))


@pytest.fixture
def given_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file gives the product of the two streams, which no logits have: its columns do not sum to 1."""
    from weaksam_cli.wsod import losses

    monkeypatch.setattr(losses, "wsddn_scores", lambda scores, _: scores)


def train_step(published: Any, case: dict[str, Any]) -> tuple[Outputs, Regions]:
    segments = superpixels(published["train_step"]["superpixels"])
    boxes = edges(case["boxes"])
    scale = np.asarray(case["scale_factor"], np.float32)
    original = edges(np.asarray(case["boxes"], np.float32) / scale).numpy()
    evidence = torch.from_numpy(straddling(original, segments))[:, None]
    progress = case["alpha_before"] * RELEASED.fade
    labels = torch.tensor(case["image_labels"], dtype=torch.float32)
    return released_outputs(case), Regions(boxes, labels, progress=progress, evidence=evidence)


@pytest.mark.usefixtures("given_scores")
@pytest.mark.parametrize("name", TRAIN_STEPS)
def test_train_step(published: Any, name: str) -> None:
    """Pseudo boxes, labels, weights, targets and the five losses."""
    assert [item["name"] for item in published["train_step"]["cases"]] == TRAIN_STEPS
    case = published["train_step"]["cases"][TRAIN_STEPS.index(name)]
    outputs, regions = train_step(published, case)
    sources = [outputs.class_logits, *(item.softmax(dim=1)[:, 1:] for item in outputs.refinement_logits[:2])]
    for source, told in zip(sources, case["pseudo"], strict=True):
        seeds, mined = RELEASED.seeds(source, regions), RELEASED.mine(source, regions)
        torch.testing.assert_close(seeds.boxes, torch.tensor(told["gt_boxes"]))
        assert seeds.classes.tolist() == told["gt_classes"]
        torch.testing.assert_close(seeds.scores, torch.tensor(told["gt_scores"]))
        assert mined.labels.tolist() == told["roi_label"]
        torch.testing.assert_close(mined.weights, torch.tensor(told["roi_weight"]))
        torch.testing.assert_close(mined.matched, torch.tensor(told["target_box"]))
    targets = encode(mined.matched, RELEASED.compared(regions.boxes))
    torch.testing.assert_close(targets, torch.tensor(case["bbox_targets_encoded"]), rtol=1e-5, atol=1e-5)
    theirs, found = case["losses"], RELEASED.losses(outputs, regions)
    assert set(found) == {"loss_img", "loss_ref_cls0", "loss_ref_cls1", "loss_ref_cls2", "loss_box"}
    assert float(found["loss_img"]) == pytest.approx(theirs["loss_wsddn"], abs=1e-5)
    assert float(found["loss_box"]) == pytest.approx(theirs["loss_bbox"], abs=1e-5, rel=1e-6)
    for branch, (rows, told) in enumerate(zip(case["refine_probs"], case["pseudo"], strict=True)):
        # Rows of the file's probabilities sum to 1.001 here and there, which no softmax does.
        excess = (torch.tensor(told["roi_weight"]) * torch.tensor(rows).sum(dim=1).log()).mean()
        loss = float(found[f"loss_ref_cls{branch}"] - excess)
        assert loss == pytest.approx(theirs[f"loss_oicr_{branch + 1}"], abs=2e-5)


def test_no_label_no_proposal_and_placeholder_box(published: Any) -> None:
    """Where the release raises or gives NaN, there is nothing to learn."""
    assert published["no_label"]["result"].startswith("ValueError")
    assert published["no_proposal"]["result"].startswith("RuntimeError")
    assert published["placeholder_box"]["losses"]["loss_bbox"] == "nan"
    generator = torch.Generator().manual_seed(0)
    for count, labels in ((0, (1.0, 0.0)), (1, (1.0, 0.0)), (3, (0.0, 0.0))):
        first, second = (torch.randn(count, 2, generator=generator) for _ in range(2))
        branches = (torch.randn(count, 3, generator=generator),) * 3
        outputs = Outputs(first, second, branches, (torch.randn(count, 4, generator=generator),))
        regions = Regions(torch.zeros(count, 4), torch.tensor(labels), evidence=torch.ones(count, 1))
        found = RELEASED.losses(outputs, regions)
        assert all(torch.isfinite(value) for value in found.values())
        assert float(found["loss_box"]) == 0


@pytest.mark.parametrize(
    ("weights", "expected"), [("one", 0.75), ("score", 0.25 * 0.4 + 0.5), ("balanced", 0.75)]
)
def test_what_alpha_mixes(weights: Any, expected: float) -> None:
    """Evidence of 2/3 at alpha 1/4: the release's constant 1, the seed's score, or both balanced."""
    method = Wsod2(mining=MiningSettings(weights=weights, ratio=1))
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    evidence = torch.full((1, 1), 2 / 3)
    regions = Regions(boxes, torch.ones(1), progress=0.125, evidence=evidence)
    assert float(method.mine(torch.tensor([[0.4]]), regions).weights) == pytest.approx(expected)


def test_evidence_of_an_image() -> None:
    """A bright square on black: its own box straddles nothing, half of it all of its segment."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 30:60] = 255
    boxes = as_boxes([[30, 20, 60, 40], [30, 20, 45, 40], [0, 0, 80, 60]])
    seen = Seen(image, Proposals.from_boxes(boxes, "import"), [0], 1)
    found = SuperpixelSettings(smoothing=0).columns(seen)
    assert found.shape == (3, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], [1, 0, 1], atol=1e-6)
    assert straddling(as_boxes([]), np.zeros((2, 2), np.int32)).shape == (0,)


def test_boxes_are_those_of_the_last_branch() -> None:
    deltas = torch.tensor([[10.0, 0, 0, 0]])  # one width to the right, whose last pixel does not count
    outputs = Outputs(torch.zeros(1, 1), torch.zeros(1, 1), (), (deltas,))
    found = RELEASED.boxes(outputs, torch.tensor([[0.0, 0, 11, 11]]))
    torch.testing.assert_close(found, torch.tensor([[10.0, 0, 21, 11]]))
