"""Training, stopping, resuming and predicting with a tiny DINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.retrain import helpers
from tests.retrain.helpers import CLASSES, Killed, config, entries, read_image, saved
from weaksam_cli.errors import UserError
from weaksam_cli.retrain import dino
from weaksam_cli.retrain.detection import load_detector
from weaksam_cli.retrain.detector import build_network, fit, stored_config
from weaksam_cli.retrain.dino import Recipe
from weaksam_cli.training.checkpoint import model_bytes
from weaksam_cli.training.loop import TrainingRun
from weaksam_cli.training.metrics import LossLog

LAYERS, PARTS = 2, ("cls", "l1", "giou")
QUERY_LOSSES = {f"loss_{part}_{layer}" for part in PARTS for layer in (0, 1, "encoder")}
LOSSES = QUERY_LOSSES | {f"loss_dn_{part}_{layer}" for part in PARTS for layer in (0, 1)}
TRANSFORMER = {
    "first_level": 4,
    "levels": 3,
    "channels": 32,
    "heads": 4,
    "points": 2,
    "encoder_layers": 1,
    "decoder_layers": LAYERS,
    "feedforward": 32,
    "queries": 12,
}
VALUES: dict[str, Any] = {
    "network": "dino-lite0",
    "backbone": {"weights": "random", "freeze_at": 3},
    "transformer": TRANSFORMER,
    "denoising": {"queries": 4},
    "query_drop": {"mode": "both", "tau": 60, "start_iteration": 2},
    "schedule": {
        "iterations": 4,
        "batch_size": 2,
        "learning_rate": 0.001,
        "optimizer": "adamw",
        "gradient_clip": 0.1,
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
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(VALUES | changes)


def objects() -> list[dict[str, Any]]:
    """Without the image that has none, so that every step has all losses."""
    return entries()[1:]


def run(folder: Path, wanted: Recipe, kill_after: int | None = None) -> nn.Module:
    return helpers.train(folder, wanted, objects(), LOSSES, kill_after=kill_after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return run(tmp_path_factory.mktemp("whole"), recipe())


def test_a_killed_training_ends_in_the_same_bytes(
    trained: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed before and after query drop begins."""
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            run(tmp_path, recipe(), kill_after)
    assert model_bytes(run(tmp_path, recipe()), {}) == model_bytes(trained, {})
    assert capfd.readouterr() == ("", "")


def test_query_drop_changes_the_weights(trained: nn.Module, tmp_path: Path) -> None:
    plain = run(tmp_path, recipe(query_drop={"mode": "off"}))
    assert model_bytes(plain, {}) != model_bytes(trained, {})


def test_the_log_tells_what_was_dropped(tmp_path: Path) -> None:
    """Beside the losses, and no part of their total."""
    log = LossLog()
    where = TrainingRun("cpu", 5, tmp_path / "checkpoint.pt", "recipe", Path.write_bytes, losses=log)
    wanted = recipe(schedule=VALUES["schedule"] | {"iterations": 3, "images_at_once": 1})
    fit(wanted, config(wanted), objects(), read_image, where)
    (row,) = log.rows
    told = {name: row.pop(name) for name in ("dropped/things", "dropped/background")}
    assert 0 < sum(told.values()) <= 0.4 * 12
    assert row.pop("total_loss") == pytest.approx(sum(row[name] for name in LOSSES), rel=1e-4)
    assert row.keys() == LOSSES | {"iteration", "lr"}


# losses of a batch


def batch(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Images of different sizes with so many objects each."""
    from detectron2.structures import Boxes, Instances

    generator = torch.Generator().manual_seed(0)
    found = []
    for number, count in enumerate(counts):
        height, width = 64 + 16 * number, 96 - 16 * number
        instances = Instances((height, width))
        corners = torch.rand(count, 2, generator=generator) * 30
        sides = torch.rand(count, 2, generator=generator) * 20 + 10
        instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
        instances.gt_classes = torch.arange(count) % len(CLASSES)
        image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator)
        found.append({"image": image, "instances": instances})
    return found


def losses(
    model: Any, counts: tuple[int, ...], iteration: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The losses of a batch, and what the event storage was told."""
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    with EventStorage(iteration) as storage:
        return model(batch(counts)), {name: value for name, (value, _) in storage.latest().items()}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return build_network(config(recipe())).train()


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 2), (6, 7), (20, 1)])
def test_losses_are_finite_and_reach_every_weight(model: Any, counts: tuple[int, ...]) -> None:
    """20 objects are more than there are queries."""
    model.zero_grad()
    found, _ = losses(model, counts)
    assert found.keys() == (LOSSES if any(counts) else QUERY_LOSSES)
    total = torch.stack([*found.values()]).sum()
    assert bool(torch.isfinite(total))
    total.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == ([] if any(counts) else ["label_enc.weight"])
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert wrong == []


def test_an_object_that_moves_changes_only_what_it_should(model: Any) -> None:
    """The sum of a layer is divided by the number of objects: twice the same image has the same losses."""
    from detectron2.utils.events import EventStorage

    one = batch((3,))
    with torch.no_grad(), EventStorage(0):
        single, twice = model(one), model(one * 2)
    for name in QUERY_LOSSES:
        assert float(twice[name]) == pytest.approx(float(single[name]), rel=1e-4), name


def test_query_drop_begins_and_tells_what_it_drops(model: Any) -> None:
    before, silent = losses(model, (6, 7), iteration=1)
    after, told = losses(model, (6, 7), iteration=2)
    assert silent == {}
    assert 0 < told["dropped/things"] <= 13
    assert 0 < told["dropped/background"] <= 11
    assert told["dropped/things"] + told["dropped/background"] <= 0.4 * 24
    for name, value in after.items():
        if name.startswith("loss_dn"):
            assert torch.equal(value, before[name])
        else:
            assert bool(value <= before[name])


def test_things_alone_keep_the_background(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = model.settings.query_drop.model_copy(update={"mode": "things", "tau": 50, "start_iteration": 0})
    settings = model.settings.model_copy(update={"query_drop": drop})
    monkeypatch.setattr(model, "settings", settings)
    _, told = losses(model, (6, 7))
    assert told == {"dropped/things": 6, "dropped/background": 0}


# prediction


@pytest.mark.parametrize("augment", [False, True])
def test_predictions(trained: nn.Module, tmp_path: Path, augment: bool) -> None:
    path = saved(tmp_path / "model.safetensors", trained, recipe())
    wanted = recipe().inference.model_copy(update={"augment": augment})
    detect = load_detector(path, wanted, CLASSES, "cpu")
    for key in ("1", "2"):
        found = detect(read_image(key))
        assert 0 < len(found) <= 7
        assert found.boxes.min() >= 0
        assert (found.boxes[:, 2] <= 70).all() and (found.boxes[:, 3] <= 50).all()
        assert (np.diff(found.scores) <= 0).all()
        assert set(found.class_index) <= {0, 1}
        again = detect(read_image(key))
        assert np.array_equal(found.boxes, again.boxes)
        assert np.array_equal(found.scores, again.scores)


def test_settings_of_another_version_are_refused(trained: nn.Module, tmp_path: Path) -> None:
    cfg = config(recipe())
    cfg.MODEL.METHOD.SETTINGS.query_drop.mode = "some"
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(trained, {"class_names": CLASSES, "detectron2": stored_config(cfg)}))
    with pytest.raises(UserError, match="they are none of this version's dino"):
        load_detector(path, recipe().inference, CLASSES, "cpu")


@pytest.mark.parametrize("augment", [False, True])
def test_very_long_and_very_small_images(trained: nn.Module, tmp_path: Path, augment: bool) -> None:
    path = saved(tmp_path / "model.safetensors", trained, recipe())
    detect = load_detector(path, recipe().inference.model_copy(update={"augment": augment}), CLASSES, "cpu")
    for size in ((1, 1), (2, 900), (900, 3)):
        detect(np.full((*size, 3), 90, np.uint8))


def test_a_flipped_image_has_flipped_boxes(trained: nn.Module, tmp_path: Path) -> None:
    """With all views of test-time augmentation the detector does not tell left from right."""
    path = saved(tmp_path / "model.safetensors", trained, recipe())
    wanted = recipe().inference.model_copy(update={"augment": True, "augment_short_sides": (64,)})
    detect, image = load_detector(path, wanted, CLASSES, "cpu"), read_image("1")
    plain, flipped = detect(image), detect(np.ascontiguousarray(image[:, ::-1]))
    np.testing.assert_allclose(plain.scores, flipped.scores, atol=1e-5)
    mirrored = flipped.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [70, 0, 70, 0]
    np.testing.assert_allclose(plain.boxes, mirrored, atol=0.01)


def test_without_transformers_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weaksam_cli.retrain.transformers_parts.find_spec", lambda _: None)
    with pytest.raises(UserError, match="the method dino needs transformers") as told:
        dino.register_network()
    assert told.value.remedy == "pip install 'weaksam-cli[hf]'"


@pytest.mark.parametrize("crop", [False, True])
def test_augmentations_keep_image_and_boxes_together(crop: bool, tmp_path: Path) -> None:
    """A training image is of a size that the recipe names, and its boxes lie inside."""
    from weaksam_cli.detectron.training import SeededMapper

    images = {"crop": crop, "crop_short_sides": [64], "crop_sides": [40, 60]}
    wanted = recipe(train_images=VALUES["train_images"] | images)
    cfg = config(wanted)
    mapper = SeededMapper(cfg, objects(), read_image, 0, wanted.augmentations(cfg))
    sizes = set()
    for iteration in range(12):
        item = mapper.item(iteration, 0, iteration % 3)
        height, width = item["image"].shape[1:]
        sizes.add((height, width))
        assert min(height, width) in (48, 64) or max(height, width) == 96
        boxes = item["instances"].gt_boxes.tensor
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert len(sizes) > (4 if crop else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer": TRANSFORMER | {"heads": 5}}, "divisor of the 32 channels, got 5"),
        ({"train_images": VALUES["train_images"] | {"crop_sides": [60, 40]}}, "the least and the largest"),
        ({"query_drop": {"tau": 0}}, "greater than or equal to 1"),
        ({"network": "r50-fpn"}, "takes faster_rcnn, mask_rcnn only, got dino"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_shares_of_the_schedule() -> None:
    schedule = {"epochs": 3, "batch_size": 2, "learning_rate": 0.1, "milestone_shares": [0.5]}
    wanted = recipe(schedule=schedule, query_drop={"mode": "things", "start_share": 0.25})
    found = wanted.resolved(20)
    assert found.query_drop.start_iteration == 8
    assert found.in_words(20).endswith("query drop (things, tau 90) from iteration 8")
    assert not found.query_drop.active(7) and found.query_drop.active(8)
