"""Exports of annotation tools: labels and boxes as they were drawn, or a word on which export to choose."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.helpers import read_labelled, read_truth, sample
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data import createml, cvat, datumaro, label_studio, labelme, via, voc
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.errors import UserError

IMAGES = ("a.jpg", "b.jpg", "c.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with three images of 40 x 30 pixels in `images`."""
    for name in IMAGES:
        sample(tmp_path / "images" / name)
    return tmp_path


def labels(layout: Any, source: Path, **options: Any) -> dict[str, tuple[str, ...] | None]:
    return {
        image.key: image.labels
        for split in read_labelled(layout, source, **options)
        for image in split.images
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---------------------------------------------------------------- CVAT
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>7</id><labels><label><name>cat</name></label></labels></task></meta>
<image id="0" name="images/a.jpg" subset="Train" width="40" height="30">
  <box label="cat" occluded="0" xtl="1.5" ytl="2.0" xbr="11.0" ybr="12.0"><attribute name="x">1</attribute></box>
  <polygon label="dog" points="5.0,3.0;30.0,3.0;30.0,20.0;5.0,20.0"/><tag label="indoor"/>
</image>
<image id="1" name="b.jpg" subset="Validation" width="40" height="30">
  <ellipse label="cat" cx="20" cy="10" rx="5" ry="4"/></image>
<image id="2" name="c.jpg" subset="Train" width="40" height="30"></image>
</annotations>"""


def test_cvat(root: Path) -> None:
    source = write(root / "annotations.xml", CVAT).parent
    assert choose_layout(str(source), None) == "cvat"
    train, validation = read_labelled(cvat, source)
    assert (train.name, train.role, validation.name, validation.role) == (
        "train",
        "train",
        "validation",
        "test",
    )
    assert {image.key: image.labels for image in train.images} == {
        "a.jpg": ("cat", "dog", "indoor"),
        "c.jpg": (),
    }
    assert [image.labels for image in validation.images] == [("cat",)]
    truth = read_truth(cvat, source, "train", masks=True)
    assert truth.images[0].objects.boxes.tolist() == [[1.5, 2, 11, 12], [5, 3, 30, 20]]
    assert [item.reason for item in truth.failed] == ["tag 3 (indoor): a tag has no box"]
    masks = truth.images[0].masks
    assert masks is not None
    assert masks[1] is not None
    assert mask_codec.decode([masks[1]], 30, 40).sum() == 25 * 17


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><track id='0' label='cat'/></annotations>", "is of a video.*CVAT for images"),
        ("<annotations></annotations>", "names no image"),
        (
            "<annotations><image name='a.jpg'><box xtl='1'/></image></annotations>",
            "box 1 of image 'a.jpg' has no label",
        ),
        ("<annotations><image", "no valid XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "entities"),
    ],
)
def test_cvat_that_cannot_be_read(root: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        labels(cvat, write(root / "annotations.xml", text))
    assert "annotations.xml" in caught.value.one_line()


def test_sides_that_cannot_be_are_not_believed(root: Path) -> None:
    text = (
        "<annotations><image name='a.jpg' width='1e999' height='9'><box label='cat'/></image></annotations>"
    )
    raw = cvat.read(write(root / "annotations.xml", text), cvat.Recipe(), None, boxes=True)
    assert [image.declared for image in raw.read("default").images] == [None]


def test_a_pipe_is_no_file_of_any_tool(root: Path) -> None:
    os.mkfifo(root / "labels.json")
    with pytest.raises(UserError, match=r"labels\.json"):
        choose_layout(str(root), None)


# ---------------------------------------------------------------- LabelMe
def labelme_file(name: str, *shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": name, "imageData": "AAAA",
        "imageHeight": 30, "imageWidth": 40, **more,
    }  # fmt: skip


def shape(label: str, *points: list[float], kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": list(points), "group_id": None, "shape_type": kind, "flags": {}}


def test_labelme(root: Path) -> None:
    polygon = shape("dog", [5, 3], [30, 3], [30, 20], [5, 20])
    rectangle = shape("cat", [11, 12], [1.5, 2], kind="rectangle")
    circle, point = shape("cat", [10, 10], [13, 14], kind="circle"), shape("eye", [3, 3], kind="point")
    write(root / "images" / "a.json", labelme_file("..\\elsewhere\\a.jpg", polygon, rectangle, circle, point))
    write(root / "images" / "b.json", labelme_file("b.jpg", flags={"indoor": True, "night": False}))
    source = root / "images"
    assert choose_layout(str(source), None) == "labelme"
    assert labels(labelme, source) == {"a.jpg": ("cat", "dog", "eye"), "b.jpg": ("indoor",)}
    truth = read_truth(labelme, source, "trainval", masks=True)
    boxes = truth.images[0].objects.boxes.tolist()
    assert boxes == [[5, 3, 30, 20], [1.5, 2, 11, 12], [5, 5, 15, 15]]
    assert [item.reason for item in truth.failed] == [
        "shape 4 (eye): a point of 1 points has no box", "flag (indoor): a flag has no box",
    ]  # fmt: skip


def test_labelme_beside_its_images_and_in_split_folders(root: Path) -> None:
    square = shape("cat", [1, 1], [9, 9], kind="rectangle")
    write(root / "labels" / "a.json", labelme_file("images/a.jpg", square))
    assert labels(labelme, root) == {"a.jpg": ("cat",)}
    for split, name in (("train", "x"), ("val", "y")):
        sample(root / "s" / split / f"{name}.png")
        write(root / "s" / split / f"{name}.json", labelme_file(f"{name}.png", square))
    splits = read_labelled(labelme, root / "s")
    assert [(split.name, split.role, split.images[0].key) for split in splits] == [
        ("train", "train", "x.png"), ("val", "test", "y.png"),
    ]  # fmt: skip


def test_labelme_in_folders_that_are_no_splits(root: Path) -> None:
    """LabelMe opens a folder with all below it; images of one name in two of them are two images."""
    for folder, name in (("cats", "cat"), ("dogs/old", "dog")):
        sample(root / "s" / folder / "a.png")
        write(
            root / "s" / folder / "a.json",
            labelme_file("a.png", shape(name, [1, 1], [9, 9], kind="rectangle")),
        )
    assert choose_layout(str(root / "s"), None) == "labelme"
    assert labels(labelme, root / "s") == {"cats/a.png": ("cat",), "dogs/old/a.png": ("dog",)}
    assert len(read_truth(labelme, root / "s", "trainval").images) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": [{"label": " ", "points": []}]}, r"a\.json: shapes\[0\]\.label"),
        ({"shapes": [{"points": []}]}, r"shapes\[0\]\.label: is missing"),
        ({"shapes": [shape("cat", [1])]}, r"shapes\[0\]\.points\[0\]"),
        ({"shapes": None}, "shapes"),
    ],
)
def test_labelme_that_cannot_be_read(root: Path, change: dict[str, Any], message: str) -> None:
    write(root / "images" / "a.json", labelme_file("a.jpg", **change))
    with pytest.raises(UserError, match=message):
        labels(labelme, root / "images")


# ---------------------------------------------------------------- VIA
def rect(*box: int) -> dict[str, Any]:
    return {"name": "rect", **dict(zip(("x", "y", "width", "height"), box, strict=True))}


POLYGON = {"name": "polygon", "all_points_x": [5, 30, 30, 5], "all_points_y": [3, 3, 20, 20]}


def via2(*regions: tuple[dict[str, Any], dict[str, Any]], as_dict: bool = False) -> dict[str, Any]:
    entries = [{"shape_attributes": drawn, "region_attributes": said} for drawn, said in regions]
    listed = {str(number): entry for number, entry in enumerate(entries)} if as_dict else entries
    return {
        "a.jpg123": {"filename": "a.jpg", "size": 123, "regions": listed, "file_attributes": {}},
        "b.jpg5": {"filename": "b.jpg", "size": 5, "regions": {} if as_dict else [], "file_attributes": {}},
    }


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("as_dict", [True, False])
def test_via_2(root: Path, project: bool, as_dict: bool) -> None:
    entries = via2(
        (rect(1, 2, 10, 10), {"class": "cat"}),
        (POLYGON, {"class": {"dog": True, "fox": False}}),
        as_dict=as_dict,
    )
    content = (
        {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}} if project else entries
    )
    source = write(root / "images" / "via_region_data.json", content).parent
    assert choose_layout(str(source), None) == "via"
    assert labels(via, source) == {"a.jpg": ("cat", "dog"), "b.jpg": ()}
    truth = read_truth(via, source, "trainval", masks=True)
    assert truth.images[0].objects.boxes.tolist() == [[1, 2, 11, 12], [5, 3, 30, 20]]
    assert not truth.failed


def test_via_csv(root: Path) -> None:
    rows = [
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
        'a.jpg,123,{},1,0,"{""name"":""rect"",""x"":1,""y"":2,""width"":10,""height"":10}","{""name"":""cat""}"',
        'b.jpg,5,{},0,0,"{}","{}"',
    ]
    source = write(root / "images" / "via.csv", "\n".join(rows) + "\n")
    assert choose_layout(str(source), None) == "via"
    assert labels(via, source) == {"a.jpg": ("cat",), "b.jpg": ()}


def test_via_3(root: Path) -> None:
    project = {
        "project": {"pid": "x"}, "config": {}, "attribute": {
            "1": {"aname": "type", "type": 3, "options": {"0": "cat", "1": "dog"}, "default_option_id": ""},
        },
        "file": {"1": {"fid": "1", "fname": "a.jpg", "type": 2, "loc": 1, "src": ""}, "2": {"fname": "b.jpg"}},
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
        "metadata": {
            "1_x": {"vid": "1", "flg": 0, "z": [], "xy": [2, 1, 2, 10, 10], "av": {"1": "0"}},
            "1_y": {"vid": "1", "flg": 0, "z": [], "xy": [7, 5, 3, 30, 3, 30, 20], "av": {"1": "1"}},
        },
    }  # fmt: skip
    source = write(root / "images" / "via_project.json", project)
    assert choose_layout(str(source), None) == "via"
    assert labels(via, source) == {"a.jpg": ("cat", "dog"), "b.jpg": ()}
    truth = read_truth(via, source, "trainval")
    assert truth.images[0].objects.boxes.tolist() == [[1, 2, 11, 12], [5, 3, 30, 20]]


@pytest.mark.parametrize(
    ("said", "options", "message"),
    [
        ([{}], {}, "have no attributes.*--set unnamed=NAME"),
        ([{"a": "x", "b": "y"}], {}, "the attributes a, b.*--set attribute=NAME"),
        ([{"class": "cat"}, {"class": ""}], {}, "region 2 has no class"),
    ],
)
def test_via_that_does_not_say_the_class(
    root: Path, said: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    source = write(root / "images" / "via.json", via2(*((rect(1, 2, 3, 4), item) for item in said)))
    with pytest.raises(UserError, match=message):
        labels(via, source, **options)


def test_via_of_one_class(root: Path) -> None:
    source = write(root / "images" / "via.json", via2((rect(1, 2, 3, 4), {})))
    assert labels(via, source, unnamed="balloon") == {"a.jpg": ("balloon",), "b.jpg": ()}
    two = write(root / "images" / "via.json", via2((rect(1, 2, 3, 4), {"a": "x", "b": "y"})))
    assert labels(via, two, attribute="b") == {"a.jpg": ("y",), "b.jpg": ()}


# ---------------------------------------------------------------- Label Studio
def result(kind: str, **value: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "original_width": 40,
        "original_height": 30,
        "value": value,
        "from_name": "x",
        "to_name": "image",
    }


@pytest.mark.parametrize("field", ["annotations", "completions"])
def test_label_studio(root: Path, field: str) -> None:
    box = result("rectanglelabels", x=25, y=10, width=50, height=50, rotation=0, rectanglelabels=["cat"])
    polygon = result("polygonlabels", points=[[12.5, 10], [75, 10], [75, 50]], polygonlabels=["dog"])
    turned = result("rectanglelabels", x=25, y=10, width=9, height=9, rotation=30, rectanglelabels=["cat"])
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/3/0a1b2c3d-a.jpg"}, field: [{"id": 9, "result": [box, polygon, turned]}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=some/images/b.jpg"}, field: [
            {"result": [], "was_cancelled": True}, {"result": [result("choices", choices=["indoor"])]},
        ]},
        {"id": 3, "data": {"image": "http://host/c.jpg?x=1"}, field: []},
    ]  # fmt: skip
    source = write(root / "project-1-at-2026.json", tasks)
    assert choose_layout(str(source), None) == "label_studio"
    (split,) = read_labelled(label_studio, source, splits={"trainval": "test"})
    assert [(image.key, image.labels) for image in split.images] == [
        ("a.jpg", ("cat", "dog")), ("b.jpg", ("indoor",)), ("c.jpg", None),
    ]  # fmt: skip
    truth = read_truth(label_studio, source, "trainval")
    np.testing.assert_allclose(truth.images[0].objects.boxes, [[10, 3, 30, 18], [5, 3, 30, 15]])
    assert [item.reason for item in truth.failed] == [
        "region 3 (cat): is a turned rectangle, whose box is not known",
        "region 1 (indoor): has no box",
        "has no annotation, so no ground truth",
    ]


def test_label_studio_min(root: Path) -> None:
    rows = [
        {"image": "/data/upload/a.jpg", "id": 1, "label": [{"x": 25, "y": 10, "width": 50, "height": 50, "rotation": 0,
            "rectanglelabels": ["cat"], "original_width": 40, "original_height": 30}], "annotator": 1, "annotation_id": 1},
        {"image": "b.jpg", "id": 2, "choice": "indoor", "annotator": 1, "annotation_id": 2},
    ]  # fmt: skip
    source = write(root / "min.json", rows)
    assert choose_layout(str(source), None) == "label_studio"
    assert labels(label_studio, source) == {"a.jpg": ("cat",), "b.jpg": ("indoor",)}


# ---------------------------------------------------------------- Datumaro
def test_datumaro(root: Path) -> None:
    content = {
        "info": {}, "categories": {"label": {"labels": [{"name": "cat", "parent": ""}, {"name": "dog"}]}, "mask": {}},
        "items": [
            {"id": "a", "annotations": [
                {"id": 1, "type": "bbox", "attributes": {"occluded": False}, "label_id": 0, "bbox": [1, 2, 10, 10]},
                {"id": 2, "type": "polygon", "attributes": {}, "label_id": 1, "points": [5, 3, 30, 3, 30, 20]},
                {"id": 3, "type": "label", "attributes": {}, "label_id": 1},
            ], "image": {"path": "a.jpg", "size": [30, 40]}},
            {"id": "b", "annotations": [], "image": {"path": "b.jpg"}},
        ],
    }  # fmt: skip
    source = write(root / "annotations" / "train.json", content).parents[1]
    assert choose_layout(str(source), None) == "datumaro"
    assert labels(datumaro, source) == {"a.jpg": ("cat", "dog"), "b.jpg": ()}
    truth = read_truth(datumaro, source, "train", masks=True)
    assert truth.images[0].objects.boxes.tolist() == [[1, 2, 11, 12], [5, 3, 30, 20]]
    assert [item.reason for item in truth.failed] == ["annotation 3 (dog): a label has no box"]
    content["items"][0]["annotations"][0]["label_id"] = 7  # type: ignore[index]
    write(source / "annotations" / "train.json", content)
    with pytest.raises(UserError, match="a: annotation 1: there is no label 7, there are 2"):
        labels(datumaro, source)


# ---------------------------------------------------------------- CreateML, LabelMe 3
def test_createml(root: Path) -> None:
    drawn = {"x": 6, "y": 7, "width": 10, "height": 10}
    entries: list[dict[str, Any]] = [
        {"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": drawn}, {"label": "dog"}]},
        {"image": "b.jpg", "annotations": []},
    ]
    source = write(root / "images" / "_annotations.createml.json", entries).parent
    assert choose_layout(str(source), None) == "createml"
    assert labels(createml, source) == {"a.jpg": ("cat", "dog"), "b.jpg": ()}
    truth = read_truth(createml, source, "trainval")
    assert truth.images[0].objects.boxes.tolist() == [[1, 2, 11, 12]]
    assert [item.reason for item in truth.failed] == ["annotation 2 (dog): has no coordinates"]
    for split in ("train", "valid"):
        sample(root / "s" / split / f"{split}.jpg")
        write(root / "s" / split / "_annotations.createml.json", [{**entries[0], "image": f"{split}.jpg"}])
    assert [split.role for split in read_labelled(createml, root / "s")] == ["train", "test"]


def test_labelme_3_writes_polygons_in_xml_and_keeps_what_was_deleted(root: Path) -> None:
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((5, 3), (30, 3), (30, 20)))
    box = "<box><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></box>"
    objects = (
        f"<object><name>cat</name><deleted>0</deleted><polygon>{points}</polygon></object>"
        f"<object><name>dog</name><segm><mask>m.png</mask>{box}</segm></object>"
        f"<object><name>gone</name><deleted>1</deleted><polygon>{points}</polygon></object>"
    )
    write(root / "images" / "a.xml", f"<annotation><filename>a.jpg</filename>{objects}</annotation>")
    assert labels(voc, root / "images") == {"a": ("cat", "dog")}
    truth = read_truth(voc, root / "images", "trainval")
    assert truth.images[0].objects.boxes.tolist() == [[5, 3, 30, 20], [1, 2, 11, 12]]
