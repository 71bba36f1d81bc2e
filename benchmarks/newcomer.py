"""A newcomer's run: 40 photographs of four classes, a CSV that names the class of each, and 20 new photographs.

    python benchmarks/newcomer.py voc07-mini FOLDER

It types what the README says, from `weaksam data` to `weaksam export`, in FOLDER, then reads what came out of it without any
code of weaksam: boxes of the YOLO and of the Label Studio file against those of the COCO file, and AP50 (COCO's rules) of
both detectors on the new photographs, whose true boxes nothing saw before. A second call goes on where the first stopped.
"""

from __future__ import annotations

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
Box = tuple[str, float, float, float, float]
"""Class, left, top, right, bottom."""


def main() -> None:
    source, folder = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    photos = pick(source, "trainval", 40, folder / "photos")
    rows = [f"photos/{key}.jpg,{name}" for key, names in photos.items() for name in sorted(names)]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    pick(source, "test", 20, folder / "new")
    for command in COMMANDS:
        subprocess.run([sys.executable, "-m", "weaksam_cli", *command.split()], cwd=folder, check=True)
    document = json.loads((folder / "wsod.json").read_text())
    expected = coco_boxes(document)
    for name, found in (("YOLO", yolo_boxes(folder / "yolo", document)), ("Label Studio", tasks(folder))):
        sys.stdout.write(
            f"{name}: the same {len(expected)} boxes, off by at most {worst(expected, found):.1e} pixels\n"
        )
    for use in ("wsod", "retrain"):
        sys.stdout.write(f"{use}: AP50 on new photographs {average_precision(source, folder, use):.1f}\n")


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


if __name__ == "__main__":
    main()
