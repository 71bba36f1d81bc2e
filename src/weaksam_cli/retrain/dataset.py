"""From pseudo ground truth in COCO's layout to what detectron2 trains on. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import boxes as box_math
from weaksam_cli.detectron.resize import resize, resized_shape
from weaksam_cli.errors import UserError

ImageReader = Callable[[str], NDArray[np.uint8]]
"""From an image's path to uint8 RGB (H, W, 3)."""


def dataset_dicts(
    coco: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    keep_empty: bool,
    path_of: Callable[[str], str] = str,
) -> list[dict[str, Any]]:
    """detectron2's list of dataset dicts of a COCO-JSON document, in the order of its images.

    Args:
        coco: `images`, `annotations` (`bbox` xywh in pixels, optional `score`) and `categories`.
        class_names: the detector's classes; `category_id` of the result indexes it.
        keep_empty: keep images without boxes.
        path_of: from COCO's `file_name` to the path that is opened.

    Returns:
        For each image `file_name`, `image_id`, `height`, `width` and `annotations`, each with `bbox` (xyxy, pixel
        edges, cut to the image; `bbox_mode` 0, which is detectron2's XYXY_ABS), `category_id`, `iscrowd` and `score`
        (1 where the document has none). Crowd regions and boxes without area are left out.

    Raises:
        UserError: for a category that is not among `class_names`, or a box of an unknown image.
    """
    names = {int(item["id"]): str(item["name"]) for item in coco["categories"]}
    position = {name: index for index, name in enumerate(class_names)}
    entries: dict[Any, dict[str, Any]] = {}
    for image in coco["images"]:
        entries[image["id"]] = {
            "file_name": path_of(str(image["file_name"])),
            "image_id": image["id"],
            "height": int(image["height"]),
            "width": int(image["width"]),
            "annotations": [],
        }
    for number, annotation in enumerate(coco["annotations"]):
        entry = entries.get(annotation["image_id"])
        name = names.get(int(annotation["category_id"]))
        if entry is None or name not in position:
            field, value = (
                ("image_id", annotation["image_id"])
                if entry is None
                else ("category_id", annotation["category_id"])
            )
            raise UserError(
                f"{field} {value} is not among the document's images and the detector's classes",
                where=f"annotations[{number}]",
                remedy="Make the pseudo ground truth again with `weaksam pgt`",
            )
        converted = _annotation(annotation, position[name], entry["height"], entry["width"])
        if converted is not None:
            entry["annotations"].append(converted)
    return [entry for entry in entries.values() if keep_empty or entry["annotations"]]


def _annotation(annotation: Mapping[str, Any], index: int, height: int, width: int) -> dict[str, Any] | None:
    if annotation.get("iscrowd", 0):
        return None
    box = box_math.clip(box_math.xywh_to_xyxy(box_math.as_boxes([annotation["bbox"]])), height, width)
    if box_math.area(box)[0] <= 0:
        return None
    return {
        "bbox": [float(value) for value in box[0]],
        "bbox_mode": 0,
        "category_id": index,
        "iscrowd": 0,
        "score": float(annotation.get("score", 1.0)),
    }


def image_tensor(image: NDArray[np.uint8], channel_order: str) -> Any:
    """uint8 tensor (3, H, W) in the order `RGB` or `BGR` of an RGB image."""
    import torch

    ordered = image if channel_order == "RGB" else image[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))


def training_item(
    entry: Mapping[str, Any],
    read_image: ImageReader,
    rng: np.random.Generator,
    *,
    short_sides: Sequence[int],
    max_size: int,
    flip: bool,
    channel_order: str,
) -> dict[str, Any]:
    """One augmented image as detectron2's model takes it; a pure function of the arguments and the state of `rng`.

    Returns:
        `image` uint8 (3, h, w), `instances` with `gt_boxes`, `gt_classes` and `gt_scores`, `height`, `width`, `image_id`.
    """
    import torch
    from detectron2.structures import Boxes, Instances

    image = read_image(entry["file_name"])
    height, width = resized_shape(
        image.shape[0], image.shape[1], int(rng.choice(np.asarray(short_sides))), max_size
    )
    boxes = box_math.as_boxes([item["bbox"] for item in entry["annotations"]])
    boxes = box_math.scale(boxes, width / image.shape[1], height / image.shape[0])
    image = resize(image, height, width)
    if flip and rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = box_math.flip_horizontal(boxes, width)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_classes = torch.tensor(
        [item["category_id"] for item in entry["annotations"]], dtype=torch.int64
    )
    instances.gt_scores = torch.tensor([item["score"] for item in entry["annotations"]], dtype=torch.float32)
    return {
        "image": image_tensor(image, channel_order),
        "instances": instances,
        "height": int(entry["height"]),
        "width": int(entry["width"]),
        "image_id": entry["image_id"],
    }
