"""Each format, opened by a reader that did not write it: its tool's own, else one after its documentation."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

from tests.exchange.annotations import KEYS, SERVERS, Found, assert_found, found_in, sample
from weaksam_cli.exchange.annotated import ImagesWish, Options
from weaksam_cli.exchange.formats import writers
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


def read_voc(folder: Path) -> Found:
    """As the devkit's documentation has it: the top left pixel is (1, 1), and the corners are pixels of the object."""
    found: Found = {}
    for name in (folder / "ImageSets" / "Main" / "default.txt").read_text(encoding="utf-8").splitlines():
        root = ElementTree.parse(folder / "Annotations" / f"{name}.xml").getroot()
        path = (Path(name).parent / (root.findtext("filename") or "")).as_posix()
        assert Image.open(folder / "JPEGImages" / path).size == tuple(
            int(root.findtext(f"size/{side}") or 0) for side in ("width", "height")
        )
        found[path] = []
        for thing in root.iter("object"):
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")
            )
            found[path].append((thing.findtext("name") or "", (left - 1, top - 1, right, bottom)))
    return found


def read_labelme(folder: Path) -> Found:
    """As LabelMe's `_label_file.py` opens it, in the folder of its images."""
    found: Found = {}
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        image = path.parent / content["imagePath"]
        assert content["imageData"] is None and content["flags"] == {}
        assert Image.open(image).size == (content["imageWidth"], content["imageHeight"])
        objects = found.setdefault(image.resolve().relative_to(folder.resolve()).as_posix(), [])
        for shape in content["shapes"]:
            assert shape["shape_type"] == "rectangle" and shape["flags"] == {} and shape["group_id"] is None
            (left, top), (right, bottom) = shape["points"]
            objects.append((shape["label"], (left, top, right, bottom)))
    return found


def read_cvat(path: Path) -> Found:
    """As docs.cvat.ai/docs/other/xml_format has it; labels and attributes are those that the task declares."""
    root = ElementTree.parse(path).getroot()
    assert root.findtext("version") == "1.1"
    names = {label.findtext("name"): label.findall("attributes/attribute") for label in root.iter("label")}
    found: Found = {}
    for number, image in enumerate(root.iter("image")):
        assert image.get("id") == str(number) and float(image.get("width", 0)) > 0
        objects = found.setdefault(image.get("name", ""), [])
        for box in image.iter("box"):
            left, top, right, bottom = (float(box.get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr"))
            declared = [item.findtext("name") for item in names[box.get("label")]]
            assert [item.get("name") for item in box.iter("attribute")] == declared
            objects.append((box.get("label", ""), (left, top, right, bottom)))
    return found


def read_fiftyone(folder: Path) -> Found:
    """As FiftyOne's `FiftyOneImageDetectionDatasetImporter` opens it."""
    content = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    manifest = folder / "data.json"
    if manifest.is_file():
        places = {
            name: folder / path for name, path in json.loads(manifest.read_text(encoding="utf-8")).items()
        }
    else:
        data = folder / "data"
        places = {path.relative_to(data).as_posix(): path for path in data.rglob("*") if path.is_file()}
    by_name = {os.path.splitext(name)[0]: (name, path) for name, path in places.items()}  # noqa: PTH122 - as it does
    found: Found = {}
    for key, detections in content["labels"].items():
        name, path = by_name[key]
        width, height = Image.open(path).size
        found[name] = [
            (
                content["classes"][item["label"]],
                (x * width, y * height, (x + w) * width, (y + h) * height),
            )
            for item in detections
            for x, y, w, h in [item["bounding_box"]]
        ]
    return found


def read_csv(path: Path) -> Found:
    """As the header says; an apostrophe before a formula is no part of a name, nor is `./` of a path."""
    found: Found = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            objects = found.setdefault(row["image"].removeprefix("./"), [])
            assert row["image"][0] not in "=+-@" and (row["label"][:1] not in ("=", "+", "@"))
            if row["label"]:
                left, top, right, bottom = (float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
                name = row["label"][1:] if row["label"].startswith(("'=", "'@")) else row["label"]
                objects.append((name, (left, top, right, bottom)))
    return found


READERS: dict[str, tuple[Callable[[Path], Found], str, tuple[ImagesWish, ...]]] = {
    "coco": (read_coco, ".json", ("none",)),
    "voc": (read_voc, "", ("copy", "link")),
    "yolo": (read_yolo, "", ("copy", "link")),
    "labelme": (read_labelme, "", ("copy",)),
    "cvat": (read_cvat, ".xml", ("none",)),
    "label-studio": (read_label_studio, ".json", ("none",)),
    "fiftyone": (read_fiftyone, "", ("none", "copy", "link")),
    "csv": (read_csv, ".csv", ("none",)),
}
CASES = [(layout, wish) for layout, (_, _, wishes) in READERS.items() for wish in wishes]


def test_every_format_of_boxes_has_a_reader_here() -> None:
    known = {name for name, module in writers().items() if not hasattr(module, "SCHEMA")}
    assert known == {*READERS, *SERVERS}


@pytest.mark.parametrize(("layout", "wish"), CASES)
def test_boxes_are_found_again(tmp_path: Path, layout: str, wish: ImagesWish) -> None:
    annotated = sample(folder=tmp_path / "pictures")
    read, suffix, _ = READERS[layout]
    out = tmp_path / f"boxes{suffix}"
    export = write(annotated, layout, out, Options(images=wish))
    assert (export.images, export.boxes, export.is_fresh) == (7, 19, False)
    assert_found(read(out), found_in(annotated))
    assert write(annotated, layout, out, Options(images=wish)).is_fresh


def test_labelme_files_beside_their_images(tmp_path: Path) -> None:
    annotated = sample(folder=tmp_path)
    for wish in ("none", "copy", "link"):
        write(annotated, "labelme", tmp_path, Options(images=wish))
        assert_found(read_labelme(tmp_path), found_in(annotated))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("layout", list(READERS))
@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_any_number_of_images(tmp_path: Path, layout: str, count: int) -> None:
    annotated = sample(("cat",), KEYS[:count], tmp_path / "pictures", scored=False)
    read, suffix, (*_, wish) = READERS[layout]
    write(annotated, layout, tmp_path / f"boxes{suffix}", Options(images=wish))
    if layout != "coco" or count:
        assert_found(read(tmp_path / f"boxes{suffix}"), found_in(annotated))
