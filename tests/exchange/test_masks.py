"""Masks in every format that has a place for them: read again by an independent reader, and by ours."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from tests.data.helpers import read_truth
from tests.exchange.annotations import COUNTS, KEYS, SERVERS, annotated_image
from weaksam_cli.core import masks
from weaksam_cli.data import coco, cvat, label_studio, labelme, voc, yolo
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, ImagesWish, Options, within
from weaksam_cli.exchange.formats import writers
from weaksam_cli.exchange.writing import write

CLASSES = ("cat", "dog")
LEAST_IOU = 0.95
Masks = dict[str, list[NDArray[np.bool_]]]
"""Name of an image -> the mask of each of its objects."""


def blobs(generator: np.random.Generator, count: int, width: int, height: int) -> NDArray[np.bool_]:
    """Masks (n, H, W) that overlap, some of two parts, some with a hole."""
    found = np.zeros((count, height, width), np.uint8)
    for number, canvas in enumerate(found):
        for part in range(1 + number % 2):
            centre = generator.integers((4, 4), (width - 4, height - 4)).tolist()
            axes = generator.integers(4, 18, 2).tolist()
            cv2.ellipse(canvas, centre, axes, float(generator.integers(180)), 0, 360, 1, -1)
            if part == number % 3:
                cv2.circle(canvas, centre, min(axes) // 2, 0, -1)
    return found.astype(bool)


def outlined(folder: Path, keys: Sequence[str] = KEYS) -> Annotated:
    """0, 1, 2, 6, 7, ... objects with masks in images that are written to `folder`."""
    generator = np.random.default_rng(0)
    images: list[AnnotatedImage] = []
    for key, count in zip(keys, COUNTS, strict=False):
        width, height = 64 + len(images), 48 + 2 * len(images)
        found = blobs(generator, count, width, height)
        counts = tuple(masks.encode(found)) if count else ()
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / key)
        image = annotated_image(
            key, masks.tight_boxes(counts, height, width), [number % 2 for number in range(count)],
            size=(width, height), folder=folder, scores=(0.9 - 0.1 * np.arange(count)).tolist(),
        )  # fmt: skip
        images.append(replace(image, masks=counts, id=len(images) + 1))
    return Annotated(CLASSES, tuple(images))


def dense(image: AnnotatedImage) -> NDArray[np.bool_]:
    return masks.decode(image.masks or (), image.height, image.width)


def filled(points: Sequence[Sequence[float]], width: int, height: int) -> NDArray[np.bool_]:
    """A polygon by the even-odd rule, eight times as fine, as OpenCV fills its border, too."""
    canvas = np.zeros((8 * height, 8 * width), np.uint8)
    cv2.fillPoly(canvas, [np.rint(8 * np.asarray(points)).astype(np.int32)], 1)
    return canvas[4::8, 4::8].astype(bool)


def read_coco(path: Path) -> Masks:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(path))
    for entry in found.anns.values():
        assert entry["area"] == found.annToMask(entry).sum()
    return {
        image["file_name"]: [
            found.annToMask(item).astype(bool) for item in found.loadAnns(found.getAnnIds(imgIds=[number]))
        ]
        for number, image in found.imgs.items()
    }


def read_yolo(folder: Path) -> Masks:
    """As docs.ultralytics.com/datasets/segment has it."""
    root, read = folder / yaml.safe_load((folder / "data.yaml").read_text())["train"], {}
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        width, height = Image.open(path).size
        label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
        lines = [line.split()[1:] for line in label.read_text().splitlines()]
        assert all(len(line) >= 6 and len(line) % 2 == 0 for line in lines)
        polygons = [np.asarray(line, float).reshape(-1, 2) * [width, height] for line in lines]
        read[path.relative_to(root).as_posix()] = [
            filled(points.tolist(), width, height) for points in polygons
        ]
    return read


def read_label_studio(path: Path) -> Masks:
    """As labelstud.io/tags/polygonlabels has it."""
    view = ElementTree.parse(path.with_name(f"{path.stem}.label_config.xml")).getroot()
    controls = {control.get("name") for control in view.iter("PolygonLabels")}
    read: Masks = {}
    for task in json.loads(path.read_text()):
        results = task["predictions"][0]["result"]
        assert all(item["type"] == "polygonlabels" and item["from_name"] in controls for item in results)
        sizes = [(item["original_width"], item["original_height"]) for item in results]
        read[task["data"]["image"].partition("?d=")[2]] = [
            filled((np.asarray(item["value"]["points"]) * size / 100).tolist(), *size)
            for item, size in zip(results, sizes, strict=True)
        ]
    return read


def read_labelme(folder: Path) -> Masks:
    read: Masks = {}
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert {shape["shape_type"] for shape in content["shapes"]} <= {"polygon"}
        size = (content["imageWidth"], content["imageHeight"])
        name = (path.parent / content["imagePath"]).relative_to(folder).as_posix()
        read[name] = [filled(shape["points"], *size) for shape in content["shapes"]]
    return read


def read_cvat(path: Path) -> Masks:
    """As docs.cvat.ai/docs/other/xml_format has it: lengths of runs, row by row, the first outside."""
    read: Masks = {}
    for image in ElementTree.parse(path).getroot().iter("image"):
        found = read.setdefault(image.get("name", ""), [])
        for shape in image.iter("mask"):
            left, top, width, height = (
                int(shape.get(side, "")) for side in ("left", "top", "width", "height")
            )
            inside, value = [], False
            for run in shape.get("rle", "").split(","):
                inside += [value] * int(run)
                value = not value
            mask = np.zeros((int(image.get("height", 0)), int(image.get("width", 0))), np.bool_)
            mask[top : top + height, left : left + width] = np.reshape(inside, (height, width))
            found.append(mask)
    return read


READERS: dict[str, tuple[Callable[[Path], Masks], str, ImagesWish]] = {
    "coco": (read_coco, ".json", "none"),
    "yolo": (read_yolo, "", "copy"),
    "label-studio": (read_label_studio, ".json", "none"),
    "labelme": (read_labelme, "", "copy"),
    "cvat": (read_cvat, ".xml", "none"),
}
EXACT = ("coco", "cvat")
KEPT = ("a.jpg", "b.png", "c.jpg", "sub/a.jpg", "sub/deep/b.jpg", "7.jpg", "d.jpg")


def assert_found(found: Masks, annotated: Annotated, least: float) -> None:
    assert sorted(found) == sorted(image.file_name for image in annotated.images)
    for image in annotated.images:
        expected = dense(image)
        assert len(found[image.file_name]) == len(expected)
        for one, other in zip(found[image.file_name], expected, strict=True):
            assert (one & other).sum() >= least * (one | other).sum(), image.key


@pytest.mark.parametrize("layout", list(READERS))
def test_masks_are_found_again(tmp_path: Path, layout: str) -> None:
    annotated = outlined(tmp_path / "pictures", KEPT)
    read, suffix, wish = READERS[layout]
    export = write(annotated, layout, tmp_path / f"out{suffix}", Options(images=wish))
    assert not any("mask" in remark for remark in export.remarks)
    assert_found(read(tmp_path / f"out{suffix}"), annotated, 1 if layout in EXACT else LEAST_IOU)


def test_voc_gives_each_pixel_to_the_surest(tmp_path: Path) -> None:
    annotated = outlined(tmp_path / "pictures", KEPT)
    export = write(annotated, "voc", tmp_path / "out", Options(images="copy"))
    assert any("masks lie partly under surer ones" in remark for remark in export.remarks)
    listed = (tmp_path / "out/ImageSets/Segmentation/default.txt").read_text().split()
    assert listed == [image.key.rpartition(".")[0] for image in annotated.images if len(image)]
    for image in (image for image in annotated.images if len(image)):
        stem = image.key.rpartition(".")[0]
        objects, classes = (
            Image.open(tmp_path / f"out/Segmentation{kind}/{stem}.png") for kind in ("Object", "Class")
        )
        assert (objects.getpalette() or [])[3:9] == [128, 0, 0, 0, 128, 0]
        seen = np.zeros((image.height, image.width), bool)
        for number, mask in enumerate(dense(image), 1):  # scores fall
            np.testing.assert_array_equal(np.asarray(objects) == number, mask & ~seen)
            assert (np.asarray(classes)[mask & ~seen] == image.classes[number - 1] + 1).all()
            seen |= mask


OURS = {
    "coco": (coco, "out.json", "out"),
    "yolo": (yolo, "out", "train"),
    "labelme": (labelme, "out", "trainval"),
    "cvat": (cvat, "annotations.xml", "default"),
    "label-studio": (label_studio, "out.json", "trainval"),
}


def accepted_in_label_studio(path: Path) -> None:
    """As a person leaves it who accepts all predictions, exported as JSON."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    path.write_text(json.dumps(tasks))


@pytest.mark.parametrize("layout", list(OURS))
def test_our_own_readers_find_the_masks(tmp_path: Path, layout: str) -> None:
    annotated = outlined(tmp_path / "pictures", [key.replace("/", "-") for key in KEPT])
    reader, name, split = OURS[layout]
    wish: ImagesWish = "copy" if "." not in name else "none"
    write(annotated, layout, tmp_path / name, Options(images=wish))
    images = tmp_path / "pictures" if wish == "none" else None
    if layout == "label-studio":
        accepted_in_label_studio(tmp_path / name)
    truth = read_truth(reader, tmp_path / name, split, images, masks=True)
    assert truth.failed == () and truth.warnings == ()
    found = {
        image.key.removeprefix("images/"): list(
            masks.decode([item or b"" for item in image.masks or ()], image.height, image.width)
        )
        for image in truth.images
    }
    assert_found(found, annotated, 1 if layout in EXACT else LEAST_IOU)


def test_our_own_reader_of_voc(tmp_path: Path) -> None:
    """Whose objects have the pixels that nothing surer has."""
    write(outlined(tmp_path / "pictures", KEPT), "voc", tmp_path / "out", Options(images="copy"))
    (tmp_path / "out/ImageSets/Main/test.txt").write_text("a\nb\nc\n")
    truth = read_truth(voc, tmp_path / "out", "test", masks=True)
    assert [len(image.objects) for image in truth.images] == [1, 2]
    assert all(mask for image in truth.images for mask in image.masks or ())


def test_a_mask_without_a_pixel_and_an_image_without_masks(tmp_path: Path) -> None:
    empty, box = masks.encode(np.zeros((1, 48, 64), bool))[0], [[1.5, 2, 30, 40]]
    one = replace(annotated_image("a.jpg", box, [0], scores=[0.5]), masks=(empty,))
    plain = annotated_image("b.jpg", box, [1], scores=[0.5])
    square = np.zeros((1, 48, 64), bool)
    square[0, 4:9, 3:20] = True
    drawn = replace(annotated_image("c.jpg", box, [1], scores=[0.5]), masks=tuple(masks.encode(square)))
    annotated = Annotated(CLASSES, (one, plain, drawn))
    assert within(annotated)[1] == ["1 masks have no pixel: their boxes stand alone"]
    for layout in ("coco", "yolo", "label-studio", "labelme", "cvat", "voc"):
        suffix = READERS[layout][1] if layout in READERS else ""
        assert write(annotated, layout, tmp_path / f"{layout}{suffix}").boxes == 3
    assert (tmp_path / "yolo/labels/b.txt").read_text().split()[1:3] == ["0.0234375000", "0.0416666667"]
    assert len((tmp_path / "yolo/labels/b.txt").read_text().split()) == 9
    shapes = [json.loads((tmp_path / f"labelme/{name}.json").read_text())["shapes"] for name in "abc"]
    assert [shape["shape_type"] for (shape,) in shapes] == ["rectangle", "rectangle", "polygon"]
    config = (tmp_path / "label-studio.label_config.xml").read_text()
    assert "RectangleLabels" in config and "PolygonLabels" in config
    tags = [
        [shape.tag for shape in image] for image in ElementTree.parse(tmp_path / "cvat.xml").iter("image")
    ]
    assert tags == [["box"], ["box"], ["mask"]]
    told = write(annotated, "voc", tmp_path / "again").remarks
    assert any("1 objects have no pixel in SegmentationObject" in remark for remark in told)


def test_what_cannot_hold_masks_says_so(tmp_path: Path) -> None:
    annotated = outlined(tmp_path / "pictures", KEPT[:4])
    boxes_only = {"csv": ".csv", "fiftyone": ""}
    known = {name for name, module in writers().items() if not hasattr(module, "SCHEMA")}
    assert {*READERS, "voc", *boxes_only, *SERVERS} == known
    for layout, suffix in boxes_only.items():
        remarks = write(annotated, layout, tmp_path / f"x{suffix}").remarks
        assert any(remark.startswith("9 masks are left out: ") for remark in remarks)


def test_as_many_masks_as_boxes() -> None:
    with pytest.raises(ValueError, match=r"masks of 'a': expected 1, got 0"):
        replace(annotated_image("a", [[0, 0, 4, 4]], [0]), masks=())
