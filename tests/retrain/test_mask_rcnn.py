"""Instance segmenters: training on pseudo masks, stopping, resuming, predicting masks with tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.retrain import helpers
from tests.retrain.helpers import (
    CLASSES,
    HEIGHT,
    LOSSES,
    VALUES,
    WIDTH,
    Killed,
    build,
    config,
    document,
    entries,
    labels_in,
    read_image,
    read_script,
    saved,
)
from weaksam_cli.core.masks import decode, encode, tight_boxes
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import annotations_bytes, read_detections
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.retrain import faster_rcnn
from weaksam_cli.retrain.detection import load_detector, pasted
from weaksam_cli.retrain.detector import fit, training_entries
from weaksam_cli.retrain.mask_rcnn import ModelSettings, Recipe
from weaksam_cli.retrain.settings import TrainImages
from weaksam_cli.retrain.torchscript import scripted_bytes
from weaksam_cli.training.checkpoint import model_bytes
from weaksam_cli.training.loop import TrainingRun

HEAD = {"convolutions": 1, "channels": 8, "pooled": 4, "sampling_ratio": 2, "class_agnostic": True}
NAMES = {"1": "1.png", "2": "2.png"}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(VALUES | {"mask_head": HEAD} | changes)


def ellipse(left: float, top: float, right: float, bottom: float) -> NDArray[np.bool_]:
    """The mask of the ellipse in a box, of an image of the tests."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    inside: NDArray[np.bool_] = across**2 + down**2 <= 1
    return inside


RUN_LENGTHS = encode(ellipse(15, 10, 55, 40)[None])[0]


def train(folder: Path, wanted: Recipe, kill_after: int | None = None) -> nn.Module:
    drawn = entries(segmentation={"size": [HEIGHT, WIDTH], "counts": RUN_LENGTHS})
    return helpers.train(folder, wanted, drawn, LOSSES | {"loss_mask"}, kill_after=kill_after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return train(tmp_path_factory.mktemp("whole"), recipe())


@pytest.fixture(scope="module")
def model_file(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model.safetensors", trained, recipe())


def test_a_killed_training_ends_in_the_same_bytes(
    trained: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed before and after RoI drop begins; detectron2 writes nothing to the terminal."""
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            train(tmp_path, recipe(), kill_after)
    assert model_bytes(train(tmp_path, recipe()), {}) == model_bytes(trained, {})
    assert capfd.readouterr() == ("", "")


def test_masks_of_each_class_and_adaptive_samples(tmp_path: Path) -> None:
    """As the published recipes have them."""
    wanted = recipe(
        mask_head=HEAD | {"class_agnostic": False, "sampling_ratio": 0},
        schedule={"iterations": 1, "batch_size": 4, "learning_rate": 0.001},
        train_images=VALUES["train_images"] | {"keep_empty": True},
    )
    model: Any = train(tmp_path, wanted)
    assert model.roi_heads.mask_head.predictor.out_channels == len(CLASSES)


@pytest.mark.parametrize("augment", [False, True])
def test_predictions(model_file: Path, augment: bool) -> None:
    wanted = recipe().inference.model_copy(update={"augment": augment})
    detect = load_detector(model_file, wanted, CLASSES, "cpu")
    found = detect(read_image("2"))
    assert found.masks is not None and 0 < len(found) == len(found.masks) <= 7
    assert (np.diff(found.scores) <= 0).all()
    drawn = [index for index, mask in enumerate(decode(found.masks, HEIGHT, WIDTH)) if mask.any()]
    extents = tight_boxes([found.masks[index] for index in drawn], HEIGHT, WIDTH)
    assert (extents[:, :2] >= np.floor(found.boxes[drawn, :2])).all()
    assert (extents[:, 2:] <= np.ceil(found.boxes[drawn, 2:])).all()
    assert found.masks == detect(read_image("2")).masks
    nothing = wanted.model_copy(update={"score_threshold": 1.0})
    empty = load_detector(model_file, nothing, CLASSES, "cpu")(read_image("2"))
    assert (len(empty), empty.masks) == (0, ())


def test_one_view_is_as_good_as_none(model_file: Path) -> None:
    """Test-time augmentation at the one size of the plain detector finds what that finds, and draws it the same."""
    plain = recipe().inference
    sizes = {"augment_short_sides": (64,), "augment_flip": False}
    views = plain.model_copy(update={"augment": True, **sizes})
    once, augmented = (load_detector(model_file, item, CLASSES, "cpu") for item in (plain, views))
    pixels = np.random.default_rng(3).integers(0, 256, (64, 80, 3), np.uint8)
    expected, found = once(pixels), augmented(pixels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    masks = [decode(item.masks or (), 64, 80) for item in (expected, found)]
    assert np.mean(masks[0] != masks[1]) < 1e-3


@pytest.mark.parametrize("augment", [False, True])
def test_very_long_images_are_looked_at(model_file: Path, augment: bool) -> None:
    wanted = recipe().inference.model_copy(update={"augment": augment})
    found = load_detector(model_file, wanted, CLASSES, "cpu")(np.full((2, 900, 3), 90, np.uint8))
    assert decode(found.masks or (), 2, 900).shape == (len(found), 2, 900)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_masks_are_pasted_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, count: int, at_once: int) -> None:
    from detectron2.layers import paste_masks_in_image

    monkeypatch.setattr("weaksam_cli.retrain.detection._PASTED_PIXELS", at_once * 30 * 40 + 1)
    draw = torch.Generator().manual_seed(count)
    probabilities = torch.rand(count, 4, 4, generator=draw)
    corners = torch.rand(count, 2, 2, generator=draw).sort(dim=1).values * torch.tensor([40, 30])
    boxes = corners.reshape(count, 4)
    whole = paste_masks_in_image(probabilities, boxes, (30, 40))
    assert np.array_equal(decode(pasted(probabilities, boxes, 30, 40), 30, 40), whole.numpy())


@pytest.fixture(scope="module")
def script(model_file: Path) -> Any:
    return read_script(scripted_bytes(model_file, recipe().inference, CLASSES))


@pytest.mark.parametrize(
    ("size", "equal"),
    [((64, 64), True), ((96, 64), True), ((50, 70), False), ((1, 1), False), ((3, 500), False)],
)
def test_torchscript_draws_the_same(
    model_file: Path, script: Any, size: tuple[int, int], equal: bool
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    expected = load_detector(model_file, recipe().inference, CLASSES, "cpu")(pixels)
    boxes, scores, classes, masks = script(torch.from_numpy(pixels).permute(2, 0, 1))
    assert masks.dtype == torch.bool and masks.shape == (len(boxes), *size)
    np.testing.assert_allclose(scores.numpy(), expected.scores, atol=0.02)
    if equal:  # nothing is resized
        assert classes.tolist() == expected.class_index.tolist()
        assert expected.masks is not None
        assert np.array_equal(masks.numpy(), decode(expected.masks, *size))


# it learns


def scene(key: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[float]]:
    """A bright ellipse on noise, its mask and its box."""
    draw = np.random.default_rng(int(key))
    width, height = draw.integers(25, 50), draw.integers(20, 40)
    left, top = draw.integers(0, WIDTH - width), draw.integers(0, HEIGHT - height)
    box = [float(left), float(top), float(left + width), float(top + height)]
    mask = ellipse(*box)
    image = draw.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[mask] = draw.integers(120, 255, 3)
    return image, mask, box


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_masks_are_those_of_the_objects(tmp_path: Path) -> None:
    """Of new images, after forty steps: nearer to the objects than their boxes are, so neither shifted nor mirrored."""
    wanted = recipe(
        backbone={"weights": "imagenet", "freeze_at": 8},
        detector={
            "first_level": 4,
            "anchor_sizes": [48, 96, 192],
            "channels": 32,
            "class_agnostic_boxes": True,
        },
        mask_head=HEAD | {"first_level": 3, "convolutions": 2, "channels": 32, "pooled": 14},
        schedule={
            "iterations": 40,
            "batch_size": 2,
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "decay": "cosine",
        },
        train_images={"short_sides": [80, 96], "max_size": 160},
        inference={"short_side": 96, "max_size": 160},
        roi_drop={"enabled": False},
    )
    dicts = []
    for number in range(12):
        _, mask, box = scene(str(number))
        drawn = {"size": [HEIGHT, WIDTH], "counts": encode(mask[None])[0]}
        annotation = {"bbox": box, "bbox_mode": 0, "category_id": 1, "iscrowd": 0, "segmentation": drawn}
        entry = {"key": str(number), "image_id": number, "height": HEIGHT, "width": WIDTH}
        dicts.append(entry | {"annotations": [annotation]})
    run = TrainingRun("cpu", 5, tmp_path / "checkpoint.pt", "recipe", Path.write_bytes)
    model = fit(wanted, config(wanted), dicts, lambda key: scene(key)[0], run)
    detect = load_detector(saved(tmp_path / "model", model, wanted), wanted.inference, CLASSES, "cpu")
    of_masks, of_boxes = [], []
    for number in range(100, 108):
        image, mask, _ = scene(str(number))
        found = detect(image)
        assert found.masks
        of_masks.append(overlap(decode(found.masks[:1], HEIGHT, WIDTH)[0], mask))
        left, top, right, bottom = found.boxes[0].round().astype(int)
        filled = np.zeros_like(mask)
        filled[top:bottom, left:right] = True
        of_boxes.append(overlap(filled, mask))
    assert np.mean(of_masks) > max(0.7, float(np.mean(of_boxes)) + 0.08), (of_masks, of_boxes)


# pseudo ground truth


def pseudo(folder: Path, boxes: list[list[float]], masks: list[NDArray[np.bool_]] | None) -> bytes:
    """The file of `weaksam pgt` with objects of the second image."""
    count = len(boxes)
    drawn = None if masks is None else tuple(encode(np.stack(masks)))
    found = Detections(
        np.asarray(boxes, np.float32).reshape(count, 4),
        np.ones(count, np.int32),
        np.ones(count, np.float32),
        drawn,
    )
    return annotations_bytes({"2": found}, labels_in(folder, NAMES).read())


def test_training_entries(tmp_path: Path) -> None:
    """A mask without pixels teaches nothing; boxes are cut to the image."""
    boxes = [[15.0, 10.0, 55.0, 40.0], [1.0, 2.0, 11.0, 7.0], [60.0, 0.0, 80.0, 9.0]]
    masks = [ellipse(15, 10, 55, 40), np.zeros((HEIGHT, WIDTH), bool), ellipse(60, 0, 70, 9)]
    (tmp_path / "pgt.json").write_bytes(pseudo(tmp_path, boxes, masks))
    labels = labels_in(tmp_path, NAMES).read()
    found = read_detections(tmp_path / "pgt.json", labels, masks=True)
    (entry,) = training_entries(labels, found, TrainImages())
    assert [item["bbox"] for item in entry["annotations"]] == [[15, 10, 55, 40], [60, 0, 70, 9]]
    for item, mask in zip(entry["annotations"], masks[::2], strict=True):
        assert item["segmentation"]["size"] == [HEIGHT, WIDTH]
        assert np.array_equal(decode([item["segmentation"]["counts"]], HEIGHT, WIDTH)[0], mask)


ONE_STEP = {"iterations": 1, "batch_size": 1, "learning_rate": 0.01}


def test_from_the_file_of_pgt_to_masks(tmp_path: Path) -> None:
    split = labels_in(tmp_path, NAMES)
    pgt = pseudo(tmp_path, [[15, 10, 55, 40]], [ellipse(15, 10, 55, 40)])
    settings = recipe(schedule=ONE_STEP).part(ModelSettings)
    path = helpers.train_on(tmp_path, settings, split, pgt)
    assert load_detector(path, recipe().inference, CLASSES, "cpu")(read_image("2")).masks is not None


def _partly(content: bytes) -> bytes:
    """The same with a second object, which has no mask."""
    values = json.loads(content)
    first = values["annotations"][0]
    values["annotations"].append({key: first[key] for key in first if key != "segmentation"} | {"id": 1})
    return json.dumps(values).encode()


def test_boxes_without_masks_are_refused(tmp_path: Path) -> None:
    split, settings = labels_in(tmp_path, NAMES), recipe(schedule=ONE_STEP).part(ModelSettings)
    whole = pseudo(tmp_path, [[15, 10, 55, 40]], [ellipse(15, 10, 55, 40)])
    for content in (document(NAMES), _partly(whole)):
        with pytest.raises(UserError, match=r"1 of 1 images have pseudo boxes without masks, as '2'") as told:
            helpers.train_on(tmp_path, settings, split, content)
        assert "weaksam pgt --masks" in str(told.value) and "pgt.json" in str(told.value)


def test_a_recipe_of_boxes_leaves_masks_aside(tmp_path: Path) -> None:
    models = []
    for name, masks in (("with", [ellipse(15, 10, 55, 40)]), ("without", None)):
        split = labels_in(tmp_path / name, NAMES)
        settings = faster_rcnn.ModelSettings.model_validate(
            {key: VALUES[key] for key in VALUES if key != "inference"} | {"schedule": ONE_STEP}
        )
        pgt = pseudo(tmp_path / name, [[15, 10, 55, 40]], masks)
        models.append(helpers.train_on(tmp_path / name, settings, split, pgt).read_bytes())
    assert models[0] == models[1]


# recipes


@pytest.mark.parametrize(
    ("boxes", "masks", "pyramid", "pooled"),
    [
        (4, None, "c4 c5", "p4 p5"),
        (4, 3, "c3 c4 c5", "p3 p4 p5"),
        (3, 4, "c3 c4 c5", "p4 p5"),
        (2, 2, "c2 c3 c4 c5", "p2 p3 p4 p5"),
    ],
)
def test_masks_may_be_pooled_from_finer_levels_than_boxes(
    boxes: int, masks: int | None, pyramid: str, pooled: str
) -> None:
    levels = VALUES["detector"] | {"first_level": boxes, "anchor_sizes": [32] * (7 - boxes)}
    settings = recipe(detector=levels, mask_head=HEAD | {"first_level": masks})
    assert pyramid.split() == config(settings).MODEL.FPN.IN_FEATURES
    heads: Any = build(settings).roi_heads
    assert heads.mask_in_features == pooled.split()
    assert heads.box_in_features == [f"p{level}" for level in range(boxes, 6)]


@pytest.mark.parametrize(
    ("name", "iterations", "milestones"),
    [
        ("mask-rcnn-r50-fpn", 9000, (6000, 8000)),
        ("mask-rcnn-r50-fpn-coco17", 90000, (60000, 80000)),
    ],
)
def test_published_recipes(name: str, iterations: int, milestones: tuple[int, int]) -> None:
    settings = load_recipe("retrain", name).recipe.part(ModelSettings)
    schedule = settings.schedule
    assert (schedule.steps, schedule.milestones, schedule.warmup_iterations) == (iterations, milestones, 1000)
    assert (schedule.batch_size, schedule.learning_rate, schedule.weight_decay) == (16, 0.02, 1e-4)
    assert not settings.roi_drop.enabled


def test_r50_in_detectron2s_words() -> None:
    """All that its own configuration of Mask R-CNN R50-FPN 1x says, but for what is ours."""
    from detectron2.config import get_cfg

    from weaksam_cli.detectron.compat import base_config

    theirs = get_cfg()
    theirs.merge_from_file(str(base_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")))
    ours = config(load_recipe("retrain", "mask-rcnn-r50-fpn").recipe.part(ModelSettings))
    for name in ("RPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "FPN", "RESNETS", "ANCHOR_GENERATOR"):
        same = {key: value for key, value in getattr(ours.MODEL, name).items() if key != "IN_FEATURES"}
        assert same.items() <= getattr(theirs.MODEL, name).items(), name
    for name in ("FPN", "RPN"):
        assert getattr(ours.MODEL, name).IN_FEATURES == getattr(theirs.MODEL, name).IN_FEATURES
    assert ours.MODEL.ROI_MASK_HEAD.IN_FEATURES == ours.MODEL.ROI_HEADS.IN_FEATURES
    assert ours.MODEL.PIXEL_MEAN == theirs.MODEL.PIXEL_MEAN
    own = {"NAME", "NUM_CLASSES", "MATCHER", "DROP"}
    heads = {key: value for key, value in ours.MODEL.ROI_HEADS.items() if key not in own}
    assert heads == {key: value for key, value in theirs.MODEL.ROI_HEADS.items() if key not in own}
    assert ours.MODEL.MASK_ON and ours.INPUT.MASK_FORMAT == "bitmask"
    assert ours.INPUT.MIN_SIZE_TRAIN == theirs.INPUT.MIN_SIZE_TRAIN
