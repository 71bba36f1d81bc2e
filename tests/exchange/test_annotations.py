"""Each format, opened by a reader that did not write it: its tool's own, else one after its documentation."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
import yaml

from tests.exchange.annotations import Found, assert_found, found_in, sample
from weaksam_cli.exchange.annotated import Options
from weaksam_cli.exchange.writing import write


def read_coco(path: Path) -> Found:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    found: Found = {}
    for identifier, image in coco.imgs.items():
        entries = coco.loadAnns(coco.getAnnIds(imgIds=[identifier]))
        found[image["file_name"]] = [
            (coco.cats[item["category_id"]]["name"], (x, y, x + width, y + height))
            for item in entries
            for x, y, width, height in [item["bbox"]]
        ]
    return found


def read_yolo(folder: Path) -> Found:
    """As docs.ultralytics.com/datasets/detect has it: labels lie where `images` is `labels` and the suffix `.txt`."""
    from PIL import Image

    content = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    root = folder / content["train"]
    found: Found = {}
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
        width, height = Image.open(path).size
        objects = found.setdefault(path.relative_to(root).as_posix(), [])
        for line in label.read_text().splitlines():
            index, *fractions = line.split()
            assert all(0 <= float(value) <= 1 for value in fractions)
            x, y, w, h = map(float, fractions[:4])
            box = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            objects.append((content["names"][int(index)], box))
    return found


def read_label_studio(path: Path) -> Found:
    """As labelstud.io/guide/predictions has it; names of tags and labels are those of the configuration."""
    view = ElementTree.parse(path.with_name(f"{path.stem}.label_config.xml")).getroot()
    shown, control = view.find("Image"), view.find("RectangleLabels")
    assert shown is not None and control is not None and shown.get("value") == "$image"
    names = {label.get("value") for label in control}
    found: Found = {}
    for task in json.loads(path.read_text(encoding="utf-8")):
        url = urlsplit(task["data"]["image"])
        assert url.path == "/data/local-files/"
        (prediction,) = task["predictions"]
        objects = found.setdefault(parse_qs(url.query)["d"][0], [])
        assert len({item["id"] for item in prediction["result"]}) == len(prediction["result"])
        for item in prediction["result"]:
            assert (item["from_name"], item["to_name"]) == (control.get("name"), shown.get("name"))
            value, width, height = item["value"], item["original_width"], item["original_height"]
            (name,) = value["rectanglelabels"]
            assert name in names and value["rotation"] == 0
            left, top = value["x"] * width / 100, value["y"] * height / 100
            box = left, top, left + value["width"] * width / 100, top + value["height"] * height / 100
            objects.append((name, box))
    return found


READERS = {
    "coco": (read_coco, "boxes.json", "none"),
    "yolo": (read_yolo, "boxes", "copy"),
    "label-studio": (read_label_studio, "boxes.json", "none"),
}


@pytest.mark.parametrize("layout", list(READERS))
def test_boxes_are_found_again(tmp_path: Path, layout: str) -> None:
    annotated = sample(folder=tmp_path / "pictures")
    read, name, images = READERS[layout]
    export = write(annotated, layout, tmp_path / name, Options(images=images))  # type: ignore[arg-type]
    assert (export.images, export.boxes, export.is_fresh) == (7, 19, False)
    assert_found(read(tmp_path / name), found_in(annotated))
    again = write(annotated, layout, tmp_path / name, Options(images=images))  # type: ignore[arg-type]
    assert again.is_fresh
