"""Pseudo ground truth as detectron2's dataset, and the augmented items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.dataset import dataset_dicts, image_tensor, training_item

NAMES = ["cat", "dog"]


def document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 5, "file_name": "a.jpg", "height": 20, "width": 30},
            {"id": 3, "file_name": "b.jpg", "height": 10, "width": 10},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"image_id": 5, "category_id": 9, "bbox": [1, 2, 10, 5], "score": 0.25},
            {"image_id": 5, "category_id": 4, "bbox": [25, 15, 10, 10]},
            {"image_id": 5, "category_id": 4, "bbox": [40, 0, 5, 5]},
            {"image_id": 5, "category_id": 4, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }


def test_dataset_dicts() -> None:
    first, second = dataset_dicts(document(), NAMES, keep_empty=True, path_of=lambda name: f"root/{name}")
    assert (first["image_id"], first["file_name"], first["height"], first["width"]) == (
        5,
        "root/a.jpg",
        20,
        30,
    )
    assert [item["bbox"] for item in first["annotations"]] == [[1, 2, 11, 7], [25, 15, 30, 20]]
    assert [item["category_id"] for item in first["annotations"]] == [1, 0]
    assert [item["score"] for item in first["annotations"]] == [0.25, 1.0]
    assert second["annotations"] == []


def test_bbox_mode_is_detectron2s() -> None:
    import_detectron2()
    from detectron2.structures import BoxMode

    annotation = dataset_dicts(document(), NAMES, keep_empty=False)[0]["annotations"][0]
    assert BoxMode(annotation["bbox_mode"]) is BoxMode.XYXY_ABS


def test_images_without_boxes_are_a_switch() -> None:
    assert [entry["image_id"] for entry in dataset_dicts(document(), NAMES, keep_empty=False)] == [5]
    assert [entry["image_id"] for entry in dataset_dicts(document(), NAMES, keep_empty=True)] == [5, 3]
    assert dataset_dicts({"images": [], "annotations": [], "categories": []}, NAMES, keep_empty=True) == []


@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_unknown_references_are_named(field: str) -> None:
    coco = document()
    coco["annotations"][1][field] = 77
    with pytest.raises(UserError, match=rf"annotations\[1\]: {field} 77"):
        dataset_dicts(coco, NAMES, keep_empty=True)


def sample(path: str) -> NDArray[np.uint8]:
    image = np.zeros((20, 30, 3), np.uint8)
    image[2:7, 1:11] = (250, 100, 0)  # the first box of the document
    return image


def item(seed: int, **changes: Any) -> dict[str, Any]:
    import_detectron2()
    entry = dataset_dicts(document(), NAMES, keep_empty=True)[changes.pop("entry", 0)]
    arguments: dict[str, Any] = {
        "short_sides": (20, 40, 60),
        "max_size": 90,
        "flip": True,
        "channel_order": "RGB",
    } | changes
    return training_item(entry, sample, np.random.default_rng(seed), **arguments)


def test_items_are_functions_of_the_seed() -> None:
    a, b = item(0), item(0)
    assert a["image"].equal(b["image"])
    assert a["instances"].gt_boxes.tensor.equal(b["instances"].gt_boxes.tensor)
    assert len({tuple(item(seed)["image"].shape) for seed in range(20)}) == 3


@pytest.mark.parametrize("seed", range(8))
def test_boxes_follow_the_image(seed: int) -> None:
    met = item(seed)
    x1, y1, x2, y2 = met["instances"].gt_boxes.tensor[0].round().int().tolist()
    red = met["image"][0]
    margin = 2
    assert red[y1 + margin : y2 - margin, x1 + margin : x2 - margin].min() > 200
    outside = red.clone()
    outside[max(y1 - margin, 0) : y2 + margin, max(x1 - margin, 0) : x2 + margin] = 0
    assert outside.max() < 50
    assert met["instances"].image_size == tuple(met["image"].shape[1:])
    assert met["instances"].gt_classes.tolist() == [1, 0]
    assert met["instances"].gt_scores.tolist() == [0.25, 1.0]
    assert (met["height"], met["width"]) == (20, 30)


def test_flip_can_be_switched_off() -> None:
    met = [
        item(seed, flip=False, short_sides=(20,))["instances"].gt_boxes.tensor[0].tolist()
        for seed in range(5)
    ]
    assert met == [[1, 2, 11, 7]] * 5


def test_image_without_boxes() -> None:
    met = item(0, entry=1)["instances"]
    assert len(met) == 0
    assert met.gt_boxes.tensor.shape == (0, 4)


def test_channel_order() -> None:
    image = sample("")
    assert image_tensor(image, "RGB")[:, 3, 3].tolist() == [250, 100, 0]
    assert image_tensor(image, "BGR")[:, 3, 3].tolist() == [0, 100, 250]
