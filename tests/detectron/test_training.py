"""detectron2's mapper with random numbers of ours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weaksam_cli.detectron.training import SeededMapper, image_tensor


def sample(_: str) -> NDArray[np.uint8]:
    image = np.zeros((20, 30, 3), np.uint8)
    image[2:7, 1:11] = (250, 100, 0)  # the box of `mapper`
    return image


def mapper(*, seed: int = 0, boxes: bool = True, flip: str = "horizontal", sizes: Any = (20, 40, 60)) -> Any:
    from detectron2.config import get_cfg
    from detectron2.data.detection_utils import build_augmentation

    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = sizes, 90
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FORMAT = flip, "RGB"
    box = {"bbox": [1.0, 2.0, 11.0, 7.0], "bbox_mode": 0, "category_id": 1, "iscrowd": 0}
    entry = {"key": "a", "height": 20, "width": 30, "annotations": [box] if boxes else []}
    return SeededMapper(cfg, [entry], sample, seed, build_augmentation(cfg, is_train=True))


def test_items_are_functions_of_seed_iteration_and_position() -> None:
    np.random.seed(3)
    a, b = mapper().item(4, 1, 0), mapper().item(4, 1, 0)
    assert a["image"].equal(b["image"])
    assert a["instances"].gt_boxes.tensor.equal(b["instances"].gt_boxes.tensor)
    shapes = {tuple(mapper().item(iteration, 0, 0)["image"].shape) for iteration in range(20)}
    assert len(shapes) == 3
    after = np.random.random()
    np.random.seed(3)
    assert after == np.random.random()  # whatever else draws global numbers does not notice


def test_threads_do_not_disturb_each_other() -> None:
    one = mapper()
    wanted = [one.item(iteration, 0, 0)["image"] for iteration in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda iteration: one.item(iteration, 0, 0)["image"], range(40)))
    assert all(a.equal(b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_boxes_follow_the_image(seed: int) -> None:
    found = mapper(seed=seed).item(0, 0, 0)
    x1, y1, x2, y2 = found["instances"].gt_boxes.tensor[0].round().int().tolist()
    red, margin = found["image"][0], 2
    assert red[y1 + margin : y2 - margin, x1 + margin : x2 - margin].min() > 200
    outside = red.clone()
    outside[max(y1 - margin, 0) : y2 + margin, max(x1 - margin, 0) : x2 + margin] = 0
    assert outside.max() < 50
    assert found["instances"].image_size == tuple(found["image"].shape[1:])
    assert found["instances"].gt_classes.tolist() == [1]
    assert (found["height"], found["width"]) == (20, 30)


def test_flip_can_be_switched_off_and_entries_stay_as_they_are() -> None:
    one = mapper(flip="none", sizes=(20,))
    boxes = [one.item(iteration, 0, 0)["instances"].gt_boxes.tensor[0].tolist() for iteration in range(5)]
    assert boxes == [[1, 2, 11, 7]] * 5


def test_image_without_boxes() -> None:
    found = mapper(boxes=False).item(0, 0, 0)["instances"]
    assert len(found) == 0
    assert found.gt_boxes.tensor.shape == (0, 4)


def test_channel_order() -> None:
    image = sample("")
    assert image_tensor(image, "RGB")[:, 3, 3].tolist() == [250, 100, 0]
    assert image_tensor(image, "BGR")[:, 3, 3].tolist() == [0, 100, 250]
