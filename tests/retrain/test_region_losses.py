"""Losses of single RoIs: those that the training adds up, for any number of pseudo boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.retrain.helpers import CLASSES, HEIGHT, VALUES, WIDTH, build, read_image, saved
from weaksam_cli.core.boxes import as_boxes, iou
from weaksam_cli.core.types import Detections
from weaksam_cli.detectron.training import image_tensor
from weaksam_cli.retrain.detector import load_network
from weaksam_cli.retrain.faster_rcnn import Recipe
from weaksam_cli.retrain.region_losses import Sampling, load_region_losses, read_description

SAMPLING = Sampling(12, 0.75, HEIGHT)


def pseudo(count: int) -> Detections:
    boxes = as_boxes([[5 * k, 3 * k, 5 * k + 30, 3 * k + 25] for k in range(count)])
    return Detections(boxes, np.arange(count, dtype=np.int32) % 2, np.ones(count, np.float32))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with fresh weights."""
    torch.manual_seed(0)
    recipe = Recipe.model_validate(VALUES)
    return saved(tmp_path_factory.mktemp("fresh") / "model.safetensors", build(recipe), recipe)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_regions_of_any_number_of_pseudo_boxes(model: Path, count: int) -> None:
    found = load_region_losses(model, CLASSES, SAMPLING, "cpu")(read_image("1"), pseudo(count), 3)
    foreground = found.class_index >= 0
    assert len(found.boxes) == (12 if count else 0)
    assert 0 <= foreground.sum() <= 9
    assert (foreground.sum() > 0) == (count > 0)
    assert np.isnan(found.regression[~foreground]).all() and np.isfinite(found.classification).all()
    limits = np.asarray([WIDTH, HEIGHT] * 2) + 1e-3
    assert ((found.boxes >= -1e-3) & (found.boxes <= limits)).all()
    if count:
        overlaps = iou(found.boxes, pseudo(count).boxes)
        assert (overlaps[foreground].max(axis=1) >= 0.5 - 1e-4).all()
        nearest = pseudo(count).class_index[overlaps.argmax(axis=1)]
        assert (found.class_index[foreground] == nearest[foreground]).all()


def test_their_sums_are_the_losses_of_the_training(model: Path) -> None:
    """The same draws: detectron2's own forward pass, before RoI drop begins."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    image, boxes = read_image("1"), pseudo(6)
    found = load_region_losses(model, CLASSES, SAMPLING, "cpu")(image, boxes, 7)
    network: Any = load_network(model, Recipe.model_validate(VALUES).inference, CLASSES, "cpu")[0]
    network.train()
    network.roi_heads.batch_size_per_image, network.roi_heads.positive_fraction = 12, 0.75
    targets = Instances((HEIGHT, WIDTH))
    targets.gt_boxes, targets.gt_classes = Boxes(torch.from_numpy(boxes.boxes)), torch.arange(6) % 2
    torch.manual_seed(7)
    with torch.no_grad(), EventStorage(0):
        losses = network([{"image": image_tensor(image, "RGB"), "instances": targets}])
    assert found.classification.mean() == pytest.approx(float(losses["loss_cls"]), rel=1e-5)
    assert np.nansum(found.regression) / 12 == pytest.approx(float(losses["loss_box_reg"]), rel=1e-5)


def test_a_seed_decides_the_regions(model: Path) -> None:
    losses = load_region_losses(model, CLASSES, SAMPLING, "cpu")
    first, again, other = (losses(read_image("1"), pseudo(6), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.boxes, other.boxes)


def test_a_box_outside_of_the_image_teaches_nothing(model: Path) -> None:
    outside = Detections(as_boxes([[80, 60, 90, 70]]), np.zeros(1, np.int32), np.ones(1, np.float32))
    assert not len(load_region_losses(model, CLASSES, SAMPLING, "cpu")(read_image("1"), outside, 0).boxes)


def test_what_a_file_tells(model: Path) -> None:
    found = read_description(model)
    assert found.roi_drop is not None and found.percentile is None
    assert (found.roi_drop.tau_cls, found.roi_drop.tau_reg, found.iterations) == (0.5, 0.1, 0)
