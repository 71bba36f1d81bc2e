"""Building, training, stopping, resuming and predicting with tiny detectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from weaksam_cli.engine.execution import one_thread
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.faster_rcnn import build_detector, detectron_config
from weaksam_cli.retrain.fit import TrainedDetector, fit, make_optimizer
from weaksam_cli.retrain.predict import make_detector, predict
from weaksam_cli.retrain.recipe import FasterRcnnRecipe
from weaksam_cli.training.checkpoint import load_model, model_bytes
from weaksam_cli.training.run import TrainingRun

ITERATIONS = 4


def recipe(**changes: Any) -> FasterRcnnRecipe:
    values: dict[str, Any] = {
        "network": "faster-rcnn-lite0-fpn",
        "backbone": {"weights": "random", "freeze_at": 3},
        "detector": {
            "channels": 8,
            "box_head_channels": 16,
            "roi_batch": 16,
            "rpn_batch": 16,
            "context": True,
        },
        "schedule": {
            "iterations": ITERATIONS,
            "batch_size": 2,
            "learning_rate": 0.01,
            "checkpoint_period": 1,
        },
        "train_images": {"short_sides": [48, 64], "max_size": 96},
        "inference": {
            "short_side": 64,
            "max_size": 96,
            "score_threshold": 0.0,
            "detections": 7,
            "augment_short_sides": [48, 64],
            "augment_max_size": 96,
        },
        "roi_drop": {"start_iteration": 2, "tau_cls": 0.5, "tau_reg": 0.1},
    }
    return FasterRcnnRecipe.model_validate(values | changes)


def read_image(path: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(int(path))
    image = rng.integers(0, 60, (50, 70, 3), dtype=np.uint8)
    image[10:40, 15:55] = rng.integers(120, 255, 3)
    return image


def entries(boxes: bool = True) -> list[dict[str, Any]]:
    box = {"bbox": [15.0, 10.0, 55.0, 40.0], "bbox_mode": 0, "category_id": 1, "iscrowd": 0, "score": 1.0}
    return [
        {
            "file_name": str(k),
            "image_id": k,
            "height": 50,
            "width": 70,
            "annotations": [box] if boxes and k else [],
        }
        for k in range(4)
    ]


@pytest.fixture(autouse=True, scope="module")
def single_thread() -> Iterator[None]:
    """As in a real training; on a busy machine threads that wait for each other take far longer."""
    with one_thread():
        yield


class Killed(BaseException):
    pass


def run(
    folder: Path, wanted: FasterRcnnRecipe, kill_after: int | None = None, boxes: bool = True
) -> TrainedDetector:
    def progress(done: int, total: int, losses: dict[str, float]) -> None:
        assert set(losses) == LOSSES or not losses
        if done == kill_after:
            raise Killed

    return fit(
        wanted,
        entries(boxes),
        2,
        read_image=read_image,
        run=TrainingRun(
            "cpu", 5, folder / "checkpoint.pt", "recipe", Path.write_bytes, progress, checkpoint_every=1
        ),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedDetector:
    return run(tmp_path_factory.mktemp("whole"), recipe())


LOSSES = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}


def test_a_killed_training_ends_in_the_same_bytes(
    trained: TrainedDetector, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed before and after RoI drop begins; detectron2 writes nothing to the terminal."""
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            run(tmp_path, recipe(), kill_after)
    assert model_bytes(run(tmp_path, recipe()).model, {}) == model_bytes(trained.model, {})
    assert capfd.readouterr() == ("", "")


def test_roi_drop_changes_the_weights(trained: TrainedDetector, tmp_path: Path) -> None:
    plain = run(tmp_path, recipe(roi_drop={"enabled": False}))
    assert model_bytes(plain.model, {}) != model_bytes(trained.model, {})


def test_without_context_and_with_adamw(tmp_path: Path) -> None:
    schedule = {
        "iterations": 2,
        "batch_size": 1,
        "learning_rate": 1e-3,
        "optimizer": "adamw",
        "gradient_clip": 1.0,
    }
    wanted = recipe(detector={"channels": 8, "box_head_channels": 16}, schedule=schedule)
    run(tmp_path, wanted)


def test_optimizer_groups() -> None:
    schedule = {
        "iterations": 2,
        "batch_size": 1,
        "learning_rate": 1e-2,
        "backbone_factor": 0.5,
        "optimizer": "adamw",
        "weight_decay": 0.1,
    }
    wanted = recipe(schedule=schedule)
    _, model = build_detector(wanted, 2, "cpu")
    groups = make_optimizer(model, wanted.schedule).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (5e-3, 0.1),
        (1e-2, 0.1),
        (1e-2, 0.0),
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)


def test_no_pseudo_box_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image has a pseudo box"):
        run(tmp_path, recipe(), boxes=False)


def test_frozen_layers_keep_their_weights(trained: TrainedDetector) -> None:
    torch.manual_seed(5)
    _, fresh = build_detector(recipe(), 2, "cpu")
    before, after = fresh.state_dict(), trained.model.state_dict()
    frozen = [name for name, parameter in fresh.named_parameters() if not parameter.requires_grad]
    assert any("bottom_up.stages.1" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(
        before["roi_heads.box_predictor.cls_score.weight"], after["roi_heads.box_predictor.cls_score.weight"]
    )


@pytest.mark.parametrize("augment", [False, True])
def test_predictions(trained: TrainedDetector, augment: bool) -> None:
    wanted = recipe().inference.model_copy(update={"augment": augment})
    detector = make_detector(trained.model.train(), trained.config, wanted)
    found = dict(predict(detector, [("one", "1"), ("two", "2")], read_image))
    again = dict(predict(detector, [("two", "2")], read_image))
    assert not any(module.training for module in trained.model.modules())
    assert list(found) == ["one", "two"]
    for detections in found.values():
        assert 0 < len(detections) <= 7
        assert detections.boxes.min() >= 0
        assert (detections.boxes[:, 2] <= 70).all()
        assert (detections.boxes[:, 3] <= 50).all()
        assert (np.diff(detections.scores) <= 0).all()
        assert set(detections.class_index) <= {0, 1}
    assert np.array_equal(found["two"].boxes, again["two"].boxes)
    assert np.array_equal(found["two"].scores, again["two"].scores)


def test_saved_model_predicts_the_same(trained: TrainedDetector, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(trained.model, {"recipe": "tiny"}))
    config, model = build_detector(recipe(), 2, "cpu")
    load_model(model, path)
    image = read_image("3")
    a = make_detector(trained.model, trained.config, recipe().inference)(image)
    b = make_detector(model, config, recipe().inference)(image)
    assert np.array_equal(a.boxes, b.boxes)
    assert np.array_equal(a.scores, b.scores)


def test_top3_matcher_is_chosen() -> None:
    from weaksam_cli.retrain.matcher import TopKMatcher

    wanted = recipe(detector={"channels": 8, "box_head_channels": 16, "matcher": "top3"})
    assert isinstance(build_detector(wanted, 2, "cpu")[1].roi_heads.proposal_matcher, TopKMatcher)  # type: ignore


@pytest.mark.parametrize(
    ("pixels", "order", "stride_in_1x1"), [("msra_bgr", "BGR", True), ("imagenet_rgb", "RGB", False)]
)
def test_r50_configuration(pixels: str, order: str, stride_in_1x1: bool) -> None:
    wanted = recipe(
        network="faster-rcnn-r50-fpn",
        backbone={"weights": "R-50.pkl", "freeze_at": 2, "pixels": pixels},
        detector={
            "first_level": 2,
            "channels": 256,
            "anchor_sizes": [32, 64, 128, 256, 512],
            "roi_batch": 512,
        },
    )
    cfg = detectron_config(wanted, 20, "cpu")
    assert (order, stride_in_1x1) == (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1)
    assert cfg.MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]
    assert cfg.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 20
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 512


def test_missing_r50_weights_are_named() -> None:
    wanted = recipe(
        network="faster-rcnn-r50-fpn",
        backbone={"weights": "/nowhere/R-50.pkl", "freeze_at": 2, "pixels": "msra_bgr"},
        detector={"channels": 8, "box_head_channels": 16},
    )
    with pytest.raises(UserError, match=r"/nowhere/R-50\.pkl"):
        build_detector(wanted, 2, "cpu")


def test_r50_trains_from_random_weights(tmp_path: Path) -> None:
    wanted = recipe(
        network="faster-rcnn-r50-fpn",
        backbone={"weights": "random", "freeze_at": 0, "norm": "batch"},
        detector={"channels": 8, "box_head_channels": 16},
        schedule={"iterations": 1, "batch_size": 1, "learning_rate": 0.01},
    )
    run(tmp_path, wanted)
