"""Building, training, stopping, resuming and predicting with tiny detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.retrain import helpers
from tests.retrain.helpers import (
    CLASSES,
    VALUES,
    Killed,
    build,
    document,
    entries,
    labels_in,
    read_image,
    read_script,
    saved,
)
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import Labels, Split
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.detection import load_detector
from weaksam_cli.retrain.detector import make_optimizer, training_entries
from weaksam_cli.retrain.faster_rcnn import Recipe
from weaksam_cli.retrain.heads import Top3Matcher
from weaksam_cli.retrain.settings import TrainImages
from weaksam_cli.retrain.torchscript import scripted_bytes
from weaksam_cli.training.checkpoint import model_bytes, read_tensors


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(VALUES | changes)


def run(folder: Path, wanted: Recipe, kill_after: int | None = None) -> nn.Module:
    return helpers.train(folder, wanted, entries(), kill_after=kill_after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return run(tmp_path_factory.mktemp("whole"), recipe())


def test_a_killed_training_ends_in_the_same_bytes(
    trained: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed before and after RoI drop begins; detectron2 writes nothing to the terminal."""
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            run(tmp_path, recipe(), kill_after)
    assert model_bytes(run(tmp_path, recipe()), {}) == model_bytes(trained, {})
    assert capfd.readouterr() == ("", "")


def test_roi_drop_changes_the_weights(trained: nn.Module, tmp_path: Path) -> None:
    plain = run(tmp_path, recipe(roi_drop={"enabled": False}))
    assert model_bytes(plain, {}) != model_bytes(trained, {})


def test_without_context_and_with_adamw(tmp_path: Path) -> None:
    schedule = {"iterations": 2, "batch_size": 1, "learning_rate": 1e-3}
    more = {"optimizer": "adamw", "gradient_clip": 1.0}
    run(tmp_path, recipe(detector={"channels": 8, "box_head_channels": 16}, schedule=schedule | more))


def test_a_coarse_pyramid_and_boxes_without_classes(tmp_path: Path) -> None:
    coarse = {"first_level": 4, "anchor_sizes": [16, 32, 64], "class_agnostic_boxes": True}
    wanted = recipe(detector={"channels": 8, "box_head_channels": 16, "roi_batch": 16} | coarse)
    model: Any = run(tmp_path, wanted)
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 4
    assert model.roi_heads.box_in_features == ["p4", "p5"]
    inference, path = wanted.inference, saved(tmp_path / "model.safetensors", model, wanted)
    found = load_detector(path, inference, CLASSES, "cpu")(read_image("1"))
    assert len(found) <= inference.detections


def test_optimizer_groups() -> None:
    schedule = {"iterations": 2, "batch_size": 1, "learning_rate": 1e-2, "backbone_factor": 0.5}
    wanted = recipe(schedule=schedule | {"optimizer": "adamw", "weight_decay": 0.1})
    model = build(wanted)
    groups = make_optimizer(model, wanted.schedule).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (5e-3, 0.1),
        (1e-2, 0.1),
        (1e-2, 0.0),
    }
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(learning)


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        self.norm, self.query, self.head = nn.LayerNorm(2), nn.Embedding(2, 2), nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("optimizer", "undecayed", "wanted"),
    [
        ("sgd", None, {"0.weight", "0.bias", "query.weight", "head.weight", "head.bias"}),
        ("adamw", None, {"0.weight", "query.weight", "head.weight"}),
        ("adamw", (), None),
        ("adamw", ("norm", "embedding"), {"0.weight", "0.bias", "head.weight", "head.bias"}),
        ("adamw", ("bias",), {"0.weight", "1.weight", "norm.weight", "query.weight", "head.weight"}),
    ],
)
def test_what_decays(optimizer: str, undecayed: Any, wanted: set[str] | None) -> None:
    values = {"iterations": 2, "batch_size": 1, "learning_rate": 1e-2, "optimizer": optimizer}
    schedule = recipe(schedule=values | {"undecayed": undecayed}).schedule
    model = Kinds()
    names = {id(value): name.removeprefix("backbone.") for name, value in model.named_parameters()}
    groups = make_optimizer(model, schedule).param_groups
    decaying = {names[id(value)] for group in groups if group["weight_decay"] for value in group["params"]}
    assert decaying == ({*names.values()} if wanted is None else wanted)


@pytest.mark.parametrize("keep_empty", [True, False])
def test_no_pseudo_box_at_all(tmp_path: Path, keep_empty: bool) -> None:
    labels = labels_in(tmp_path, {"1": "1.png"}).read()
    with pytest.raises(UserError, match="no image has a pseudo box"):
        training_entries(labels, {"1": Detections.empty()}, TrainImages(keep_empty=keep_empty))


def test_frozen_layers_keep_their_weights(trained: nn.Module) -> None:
    torch.manual_seed(5)
    fresh = build(recipe())
    before, after = fresh.state_dict(), trained.state_dict()
    frozen = [name for name, parameter in fresh.named_parameters() if not parameter.requires_grad]
    assert any("bottom_up.stages.1" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    head = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(before[head], after[head])


@pytest.mark.parametrize("augment", [False, True])
def test_predictions(trained: nn.Module, tmp_path: Path, augment: bool) -> None:
    path = saved(tmp_path / "model.safetensors", trained, recipe())
    wanted = recipe().inference.model_copy(update={"augment": augment})
    detect = load_detector(path, wanted, CLASSES, "cpu")
    found = {key: detect(read_image(key)) for key in ("1", "2")}
    for detections in found.values():
        assert 0 < len(detections) <= 7
        assert detections.boxes.min() >= 0
        assert (detections.boxes[:, 2] <= 70).all()
        assert (detections.boxes[:, 3] <= 50).all()
        assert (np.diff(detections.scores) <= 0).all()
        assert set(detections.class_index) <= {0, 1}
    again = detect(read_image("2"))
    assert np.array_equal(found["2"].boxes, again.boxes)
    assert np.array_equal(found["2"].scores, again.scores)
    few = load_detector(path, wanted.model_copy(update={"detections": 2}), CLASSES, "cpu")
    assert len(few(read_image("1"))) <= 2


@pytest.mark.parametrize(
    "size", [(64, 64), (64, 96), (96, 64), (50, 70), (200, 300), (1, 1), (3, 500), (1, 500)]
)
def test_torchscript_detects_the_same(trained: nn.Module, tmp_path: Path, size: tuple[int, int]) -> None:
    path, inference = saved(tmp_path / "model.safetensors", trained, recipe()), recipe().inference
    script = read_script(scripted_bytes(path, inference, CLASSES))
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    expected = load_detector(path, inference, CLASSES, "cpu")(pixels)
    boxes, scores, classes = script(torch.from_numpy(pixels).permute(2, 0, 1))
    assert script.class_names == CLASSES and boxes.shape == (len(scores), 4)
    if 64 in size and max(size) <= 96:  # nothing is resized
        np.testing.assert_allclose(boxes.numpy(), expected.boxes, atol=1e-4)
        assert classes.tolist() == expected.class_index.tolist()
    np.testing.assert_allclose(scores.numpy(), expected.scores, atol=0.02)
    height, width = size
    assert ((boxes >= 0) & (boxes <= torch.tensor([width, height] * 2))).all()


@pytest.mark.parametrize("augment", [False, True])
def test_very_long_images_are_looked_at(trained: nn.Module, tmp_path: Path, augment: bool) -> None:
    """Their short side, rounded, had no pixel."""
    path = saved(tmp_path / "model.safetensors", trained, recipe())
    detect = load_detector(path, recipe().inference.model_copy(update={"augment": augment}), CLASSES, "cpu")
    detect(np.full((2, 900, 3), 90, np.uint8))


def test_a_model_for_other_classes_is_refused(trained: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", trained, recipe())
    with pytest.raises(UserError, match=r"trained for the classes \['cat', 'dog'\]"):
        load_detector(path, recipe().inference, ["cat", "owl"], "cpu")
    path.write_bytes(model_bytes(trained, {"class_names": CLASSES}))
    with pytest.raises(UserError, match="no detector of `weaksam retrain`"):
        load_detector(path, recipe().inference, CLASSES, "cpu")


def test_top3_matcher_is_chosen() -> None:
    wanted = recipe(detector={"channels": 8, "box_head_channels": 16, "matcher": "top3"})
    assert isinstance(build(wanted).roi_heads.proposal_matcher, Top3Matcher)  # type: ignore[union-attr]


def test_missing_r50_weights_are_named() -> None:
    wanted = recipe(
        network="r50-fpn",
        backbone={"weights": "/nowhere/R-50.pkl", "freeze_at": 2, "pixels": "msra_bgr"},
        detector={"channels": 8, "box_head_channels": 16},
    )
    with pytest.raises(UserError, match=r"/nowhere/R-50\.pkl"):
        build(wanted)


def test_r50_trains_from_random_weights(tmp_path: Path) -> None:
    wanted = recipe(
        network="r50-fpn",
        backbone={"weights": "random", "freeze_at": 0, "norm": "batch"},
        detector={"channels": 8, "box_head_channels": 16},
        schedule={"iterations": 1, "batch_size": 1, "learning_rate": 0.01},
    )
    run(tmp_path, wanted)


# pseudo ground truth of a run


def train_on(folder: Path, split: Split, pgt: bytes) -> Path:
    short = recipe(schedule={"iterations": 1, "batch_size": 1, "learning_rate": 0.01})
    return helpers.train_on(folder, short, split, pgt)


def test_images_are_found_by_key_after_the_image_root_moved(tmp_path: Path) -> None:
    """Pseudo ground truth names files as they were called when it was made; images were looked up by that name."""
    before = {"1": "1.png", "2": "2.png"}
    split = labels_in(tmp_path, {"1": "below/1.png", "2": "below/2.png"})
    path = train_on(tmp_path, split, document(before))
    assert read_tensors(path)
    detect = load_detector(path, recipe().inference, CLASSES, "cpu")
    assert len(detect(read_image("1"))) > 0


@pytest.mark.parametrize(
    ("pgt", "message"),
    [
        (b"[{", "no valid JSON"),
        (b"\xff\xfe", "the file is UTF-16"),
        (b"{}", "has no annotations"),
        (
            document({"2": "2.png"}, annotations=[{"image_id": 100, "category_id": 9}]),
            r"annotations\[0\].bbox: is missing",
        ),
        (
            document({"2": "2.png"}, annotations=[{"image_id": 100, "bbox": [1, 1, 1, 1]}]),
            r"annotations\[0\].category_id: is missing",
        ),
        (document({"2": "2.png"}), "image_id 101 is not in labels.json"),
        (
            document({"1": "1.png", "2": "2.png"}, categories=[{"id": 9, "name": "owl"}]),
            "category_id 9 is not in",
        ),
    ],
)
def test_damaged_or_foreign_pseudo_ground_truth_is_told(tmp_path: Path, pgt: bytes, message: str) -> None:
    """It was read with a bare `json.loads`: KeyError, TypeError, UnicodeDecodeError."""
    split = labels_in(tmp_path, {"1": "1.png", "2": "2.png"})
    with pytest.raises(UserError, match=message):
        train_on(tmp_path, split, pgt)


def test_training_entries(tmp_path: Path) -> None:
    labels: Labels = labels_in(tmp_path, {"1": "1.png", "2": "2.png"}).read()
    boxes = np.asarray([[1, 2, 11, 7], [65, 45, 80, 60], [75, 0, 90, 5]], np.float32)
    scores = np.ones(3, np.float32)
    found = {"1": Detections(boxes, np.asarray([1, 0, 0], np.int32), scores), "2": Detections.empty()}
    first, second = training_entries(labels, found, TrainImages(keep_empty=True))
    assert (first["key"], first["image_id"], first["height"], first["width"]) == ("1", 0, 50, 70)
    assert [item["bbox"] for item in first["annotations"]] == [[1, 2, 11, 7], [65, 45, 70, 50]]
    assert [item["category_id"] for item in first["annotations"]] == [1, 0]
    assert second["annotations"] == []
    assert [entry["key"] for entry in training_entries(labels, found, TrainImages())] == ["1"]
    # The first box is 10 x 5, the second, cut to the image, 5 x 5; the image is 70 x 50.
    (entry,) = training_entries(labels, found, TrainImages(min_box=5, min_size=50))
    assert len(entry["annotations"]) == 2
    with pytest.raises(UserError, match="no image has a pseudo box"):
        training_entries(labels, found, TrainImages(min_box=6))
    with pytest.raises(UserError, match="no image has a pseudo box"):
        training_entries(labels, found, TrainImages(min_size=51))
    from detectron2.structures import BoxMode

    assert BoxMode(first["annotations"][0]["bbox_mode"]) is BoxMode.XYXY_ABS
