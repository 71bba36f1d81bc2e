"""A newcomer's run: 40 photographs of four classes, a CSV that names the class of each, and 20 new photographs.

    python benchmarks/newcomer.py voc07-mini FOLDER

It types what the README says, from `weaksam data` to `weaksam export`, in FOLDER, then reads what came out of it without any
code of weaksam: boxes of the YOLO and of the Label Studio file against those of the COCO file, and AP50 (COCO's rules) of
both detectors on the new photographs, whose true boxes nothing saw before. A second call goes on where the first stopped.

With `--masks` it goes on to instance segmentation (profile `embedded-masks`): the masks of the YOLO-seg and of the Label
Studio file against those of the COCO file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = ("bus", "cat", "horse", "train")
COMMANDS = (
    "data labels.csv --dataset pets",
    "all --dataset pets",
    "predict new --dataset pets -o wsod.json --use wsod --draw pictures",
    "predict new --dataset pets -o retrain.json --use retrain",
    "export wsod.json --format yolo -o yolo",
    "export wsod.json --format label-studio -o tasks.json",
)
MASK_COMMANDS = (
    "data labels.csv --dataset pets",
    "all --dataset pets --profile embedded-masks",
    "predict new --dataset pets -o found.json --use retrain --draw pictures",
    "export found.json --format yolo -o yolo",
    "export found.json --format label-studio -o tasks.json",
)
Drawn = tuple[str, str, Any]
"""Image, class, and mask as pycocotools has it."""
Box = tuple[str, float, float, float, float]
"""Class, left, top, right, bottom."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="voc07-mini")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--masks", action="store_true")
    options = parser.parse_args()
    source, folder = options.source, options.folder
    folder.mkdir(exist_ok=True)
    photos = pick(source, "trainval", 40, folder / "photos")
    rows = [f"photos/{key}.jpg,{name}" for key, names in photos.items() for name in sorted(names)]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    pick(source, "test", 20, folder / "new")
    for command in MASK_COMMANDS if options.masks else COMMANDS:
        subprocess.run([sys.executable, "-m", "weaksam_cli", *command.split()], cwd=folder, check=True)
    if options.masks:
        tell_masks(folder)
    else:
        tell_boxes(source, folder)


def tell_boxes(source: Path, folder: Path) -> None:
    document = json.loads((folder / "wsod.json").read_text())
    expected = coco_boxes(document)
    for name, found in (("YOLO", yolo_boxes(folder / "yolo", document)), ("Label Studio", tasks(folder))):
        sys.stdout.write(
            f"{name}: the same {len(expected)} boxes, off by at most {worst(expected, found):.1e} pixels\n"
        )
    for use in ("wsod", "retrain"):
        sys.stdout.write(f"{use}: AP50 on new photographs {average_precision(source, folder, use):.1f}\n")


def tell_masks(folder: Path) -> None:
    document = json.loads((folder / "found.json").read_text())
    expected = coco_masks(document)
    for name, found in (
        ("YOLO-seg", yolo_masks(folder, document)),
        ("Label Studio", task_masks(folder, document)),
    ):
        assert [item[:2] for item in expected] == [item[:2] for item in found], f"{name}: other objects"
        overlaps = [
            coco_mask.iou([one[2]], [other[2]], [0])[0, 0] for one, other in zip(expected, found, strict=True)
        ]
        sys.stdout.write(
            f"{name}: {len(found)} masks, IoU with those of COCO {np.mean(overlaps):.3f}, least {min(overlaps):.3f}\n"
        )


def pick(source: Path, split: str, count: int, folder: Path) -> dict[str, set[str]]:
    """Copy as many images of each class, drawn by chance: the classes in each, by key."""
    keys = (source / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
    random.Random(0).shuffle(keys)
    chosen: dict[str, set[str]] = {}
    for name in CLASSES:
        for key in keys:
            shown = {found for found, *_ in objects(source, key)}
            share = sum(name in names for names in chosen.values()) < count // len(CLASSES)
            if name in shown and key not in chosen and share:
                chosen[key] = shown
    folder.mkdir(exist_ok=True)
    for key in chosen:
        shutil.copy(source / "JPEGImages" / f"{key}.jpg", folder)
    return dict(sorted(chosen.items()))


def objects(source: Path, key: str) -> list[tuple[str, list[float], bool]]:
    """Class, box (x, y, w, h) and difficulty of each object of our classes."""
    tree, found = ElementTree.parse(source / "Annotations" / f"{key}.xml"), []
    for item in tree.iter("object"):
        if item.findtext("name") in CLASSES:
            left, top, right, bottom = (
                float(item.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")
            )
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            found.append((item.findtext("name", ""), box, item.findtext("difficult") == "1"))
    return found


def coco_boxes(document: Any) -> list[tuple[str, Box]]:
    names = {item["id"]: item["name"] for item in document["categories"]}
    files = {item["id"]: item["file_name"] for item in document["images"]}
    boxes = [
        (files[item["image_id"]], names[item["category_id"]], *item["bbox"])
        for item in document["annotations"]
    ]
    return sorted((file, (name, x, y, x + w, y + h)) for file, name, x, y, w, h in boxes)


def yolo_boxes(folder: Path, document: Any) -> list[tuple[str, Box]]:
    names, boxes = yaml.safe_load((folder / "data.yaml").read_text())["names"], []
    for image in document["images"]:
        width, height = image["width"], image["height"]
        for line in (
            (folder / "labels" / Path(image["file_name"]).with_suffix(".txt")).read_text().splitlines()
        ):
            index, x, y, w, h = (float(word) for word in line.split())
            x, y, w, h = x * width, y * height, w * width / 2, h * height / 2
            boxes.append((image["file_name"], (names[int(index)], x - w, y - h, x + w, y + h)))
    return sorted(boxes)


def tasks(folder: Path) -> list[tuple[str, Box]]:
    boxes = []
    for task in json.loads((folder / "tasks.json").read_text()):
        (file,) = re.findall(r"\?d=(.*)", task["data"]["image"])
        for item in task["predictions"][0]["result"]:
            value, width, height = item["value"], item["original_width"] / 100, item["original_height"] / 100
            left, top = value["x"] * width, value["y"] * height
            right, bottom = left + value["width"] * width, top + value["height"] * height
            boxes.append((file, (value["rectanglelabels"][0], left, top, right, bottom)))
    return sorted(boxes)


def worst(expected: list[tuple[str, Box]], found: list[tuple[str, Box]]) -> float:
    """The largest difference of a coordinate, in pixels; images and classes are the same."""
    pairs = list(zip(expected, found, strict=True))
    assert all((one[0], one[1][0]) == (other[0], other[1][0]) for one, other in pairs)
    return float(np.abs(np.asarray([np.subtract(one[1][1:], other[1][1:]) for one, other in pairs])).max())


def average_precision(source: Path, folder: Path, use: str) -> float:
    """AP50 of all detections, in percent; difficult objects count neither way."""
    document = json.loads((folder / f"{use}.json").read_text())
    ids = {item["name"]: item["id"] for item in document["categories"]}
    truth = [
        {"image_id": image["id"], "category_id": ids[name], "bbox": box, "area": box[2] * box[3],
        "iscrowd": int(difficult)}
        for image in document["images"]
        for name, box, difficult in objects(source, Path(image["file_name"]).stem)
    ]  # fmt: skip
    annotations = [{**item, "id": number} for number, item in enumerate(truth, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**document, "annotations": annotations}
        coco.createIndex()
        evaluated = COCOeval(coco, coco.loadRes(str(folder / f"{use}.results.json")), "bbox")
        evaluated.params.iouThrs = np.asarray([0.5])
        evaluated.evaluate()
        evaluated.accumulate()
    precision = evaluated.eval["precision"][0, :, :, 0, 2]
    return float(100 * precision[precision > -1].mean())


def coco_masks(document: Any) -> list[Drawn]:
    names = {item["id"]: item["name"] for item in document["categories"]}
    files = {item["id"]: item["file_name"] for item in document["images"]}
    return [
        (files[item["image_id"]], names[item["category_id"]], item["segmentation"])
        for item in document["annotations"]
    ]


def filled(points: list[float], image: Any) -> Any:
    """A polygon x, y, x, y, ... in pixels."""
    return coco_mask.frPyObjects([points], image["height"], image["width"])[0]


def yolo_masks(folder: Path, document: Any) -> list[Drawn]:
    names, found = yaml.safe_load((folder / "yolo/data.yaml").read_text())["names"], []
    for image in document["images"]:
        sides = (image["width"], image["height"])
        path = (folder / "yolo/labels" / Path(image["file_name"])).with_suffix(".txt")
        for line in path.read_text().splitlines():
            index, *shares = (float(word) for word in line.split())
            points = [share * sides[place % 2] for place, share in enumerate(shares)]
            found.append((image["file_name"], names[int(index)], filled(points, image)))
    return found


def task_masks(folder: Path, document: Any) -> list[Drawn]:
    images, found = {item["file_name"]: item for item in document["images"]}, []
    for task in json.loads((folder / "tasks.json").read_text()):
        (file,) = re.findall(r"\?d=(.*)", task["data"]["image"])
        image = images[file]
        for item in task["predictions"][0]["result"]:
            points = [
                value / 100 * side
                for pair in item["value"]["points"]
                for value, side in zip(pair, (image["width"], image["height"]), strict=True)
            ]
            found.append((file, item["value"]["polygonlabels"][0], filled(points, image)))
    return found


if __name__ == "__main__":
    main()
