"""COCO results and labels files: round trips, and refusals in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.boxes import as_boxes, xywh_to_xyxy
from weaksam_cli.core.masks import decode, encode
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import annotations_bytes, has_masks, read_detections, result_texts
from weaksam_cli.data.labels import (
    Category,
    LabelledImage,
    Labels,
    LabelsFile,
    LabelsInfo,
    labels_bytes,
    read_labels,
)
from weaksam_cli.errors import UserError


def make_labels(path: Path = Path("labels.json")) -> Labels:
    info = LabelsInfo(format="weaksam/labels", format_version=1, dataset="d", split="trainval", role="train")
    images = [
        LabelledImage(
            id=number,
            key=f"k{number}",
            file_name=f"k{number}.jpg",
            height=90,
            width=100,
            sha256="0",
            labels=["cat"],
        )
        for number in (7, 9)
    ]
    categories = [Category(id=3, name="cat"), Category(id=11, name="dog")]
    return Labels(
        path, LabelsFile(info=info, categories=categories, images=images, annotations=[], failed=[]), Path()
    )


def detections(n: int, seed: int = 0) -> Detections:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.integers(0, 90, (n, 2, 2)), axis=1).reshape(n, 4).astype(np.float32)
    scores = generator.random(n).round(4).astype(np.float32)
    return Detections(corners, generator.integers(0, 2, n).astype(np.int32), scores)


@given(st.sampled_from([0, 1, 2, 6, 7]), st.integers(0, 100))
def test_results_come_back(tmp_path_factory: pytest.TempPathFactory, n: int, seed: int) -> None:
    path = tmp_path_factory.mktemp("results") / "r.json"
    labels, given_ = make_labels(), detections(n, seed)
    path.write_text("[" + ", ".join(result_texts(labels)("k9", given_)) + "]")
    found = read_detections(path, labels)
    assert set(found) == {"k7", "k9"}
    assert len(found["k7"]) == 0
    np.testing.assert_allclose(found["k9"].boxes, given_.boxes)
    np.testing.assert_array_equal(found["k9"].class_index, given_.class_index)
    np.testing.assert_array_equal(found["k9"].scores, given_.scores)
    path.write_bytes(annotations_bytes({"k9": given_}, labels))
    document = read_detections(path, labels)
    np.testing.assert_array_equal(document["k9"].boxes, found["k9"].boxes)
    np.testing.assert_array_equal(document["k9"].scores, given_.scores)


@pytest.mark.parametrize("score", [4e-7, 3e-7, 1.5e-38, 0.1, 1 / 3, 1.0, 99.5, 1.3e8])
def test_scores_keep_their_precision(tmp_path: Path, score: float) -> None:
    """A score of 4e-7 was written as 0.0, and top-1 pseudo ground truth then dropped its box."""
    labels, path = make_labels(), tmp_path / "r.json"
    given_ = Detections(
        np.asarray([[0, 0, 5, 5]], np.float32), np.zeros(1, np.int32), np.asarray([score], np.float32)
    )
    path.write_text("[" + ", ".join(result_texts(labels)("k7", given_)) + "]")
    assert read_detections(path, labels)["k7"].scores.tolist() == given_.scores.tolist()
    assert len(str(json.loads(path.read_text())[0]["score"])) <= 14, "the shortest decimal, not float64's"


def test_pseudo_ground_truth_loads_in_other_tools(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    path = tmp_path / "pgt.json"
    path.write_bytes(annotations_bytes({"k7": detections(2), "k9": detections(1, seed=1)}, make_labels()))
    loaded = COCO(str(path))
    assert [image["key"] for image in loaded.loadImgs([7, 9])] == ["k7", "k9"]
    assert [len(loaded.getAnnIds(imgIds=[number])) for number in (7, 9)] == [2, 1]
    content = json.loads(path.read_text())
    assert [item["id"] for item in content["annotations"]] == [0, 1, 2]
    for item in content["annotations"]:
        assert set(item) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "score"}
        assert item["area"] == pytest.approx(item["bbox"][2] * item["bbox"][3])


def test_annotations_of_the_published_code(oracle: Any) -> None:
    expected = oracle("pgt")["gen_annotations"]["output"]
    labels = make_labels()
    images = [
        image.model_copy(update={"id": number})
        for image, number in zip(labels.file.images, (5, 9), strict=True)
    ]
    categories = [Category(id=1, name="cat"), Category(id=18, name="dog")]
    file = labels.file.model_copy(update={"images": images, "categories": categories})
    found = {
        key: Detections(
            xywh_to_xyxy(as_boxes([item["bbox"] for item in items])),
            np.asarray([(1, 18).index(item["category_id"]) for item in items], np.int32),
            np.full(len(items), 0.9, np.float32),
        )
        for key, items in (("k7", expected[:1]), ("k9", expected[1:]))
    }
    content = json.loads(annotations_bytes(found, replace(labels, file=file)))
    assert [{key: item[key] for key in expected[0]} for item in content["annotations"]] == expected
    assert [(item["area"], item["iscrowd"], item["score"]) for item in content["annotations"]] == [
        (12.0, 0, 0.9),
        (25.0, 0, 0.9),
        (25.0, 0, 0.9),
    ]


def test_a_document_explains_its_own_numbers(tmp_path: Path) -> None:
    """Images by key and classes by name, whatever their numbers; crowds are no detections."""
    path = tmp_path / "pgt.json"
    entry = {**ENTRY, "image_id": 1, "category_id": 1}
    content = {
        "images": [{"id": 1, "key": "k9"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 3, "name": "cow"}],
        "annotations": [entry, {**entry, "iscrowd": 1}],
    }
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    found = read_detections(path, make_labels())
    assert found["k9"].class_index.tolist() == [1]
    assert len(found["k7"]) == 0


ENTRY = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


BAD = [
    ({"a": 1}, "has no annotations"),
    (3, "Expected `object`, got `int`"),
    ([{**ENTRY, "image_id": 8}], "[0]: image_id 8 is not in labels.json"),
    ([ENTRY, {**ENTRY, "category_id": 4}], "[1]: category_id 4 is not in labels.json"),
    ([{**ENTRY, "image_id": "7"}], "[0].image_id: expected a valid integer, got '7'"),
    ([{**ENTRY, "image_id": 10**400}], "[0].image_id: expected less than"),
    ([{**ENTRY, "bbox": [1, 2, 3]}], "[0].bbox[3]: is missing"),
    ([ENTRY, {**ENTRY, "bbox": [1, 2, 3, float("nan")]}], "[1].bbox[3]: expected a valid number, got 'NaN'"),
    ([{**ENTRY, "bbox": [1, 2, -3, 4]}], "[0].bbox[2]: expected greater than or equal to 0, got -3"),
    ([{**ENTRY, "bbox": [1, 2, 3, 1e30]}], "[0].bbox[3]: expected less than or equal to"),
    ([ENTRY, {**ENTRY, "bbox": [-40, 2, 3, 4]}], "[1].bbox: the box from -40, 2 to -37, 6 is not in its"),
    (
        [{**ENTRY, "bbox": [1, 2, 300, 4]}],
        "[0].bbox: the box from 1, 2 to 301, 6 is not in its image of 100 x 90",
    ),
    ([{**ENTRY, "bbox": [0.1, 0.2, 0.3, 0.4]}], "r.json: the boxes look like fractions of the image's sides"),
    ([{**ENTRY, "bbox": [60 + n, 50, 90, 80]} for n in range(9)], "look like corners"),
    ([{**ENTRY, "score": "high"}], "[0].score: expected a valid number, got 'high'"),
    ([{**ENTRY, "score": -1e30}], "[0].score: expected greater than or equal to 0, got -1e"),
    ([{**ENTRY, "score": 1e20}], "[0].score: expected less than or equal to"),
    ([{**ENTRY, "score": True}], "[0].score: expected a valid number"),
    ([{"image_id": 7}], "[0].category_id: is missing"),
    ([{name: value for name, value in ENTRY.items() if name != "score"}], "[0].score: is missing"),
    ([3], "[0]: expected"),
    ({"annotations": [ENTRY, {**ENTRY, "bbox": None}]}, "[1].bbox: expected a valid"),
    ({"annotations": [ENTRY], "categories": [{"id": 3, "name": "cow"}]}, "[0]: category_id 3 is not in"),
    (
        {"annotations": [ENTRY], "categories": [{"id": 3, "name": "cat"}] * 2},
        "categories: the id 3 stands twice",
    ),
    ({"annotations": [ENTRY], "images": [{"id": 7, "key": "other"}]}, "[0]: image_id 7 is not in"),
    ({"annotations": [ENTRY], "images": [{"id": 7}, {"id": 7}]}, "images: the id 7 stands twice"),
    ({"annotations": {"1": ENTRY}}, "Expected `array | null`, got `object`"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_results_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_detections(path, make_labels())
    assert message in caught.value.one_line()
    assert str(path) in caught.value.one_line()


@pytest.mark.parametrize(
    "box", [[-50, -40, 100, 90], [80, 70, 100, 90], [99, 89, 0, 0], [1.5, 2.5, 98.6, 87.6]]
)
def test_a_box_that_stands_out_of_its_image_stays_as_it_is(tmp_path: Path, box: list[float]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{**ENTRY, "bbox": box}]))
    np.testing.assert_array_equal(
        read_detections(path, make_labels())["k7"].boxes, xywh_to_xyxy(as_boxes([box]))
    )


HOSTILE = [
    b"",
    b"\0",
    b"[" * 100_000,
    b'[{"image_id": ' + b"9" * 5000 + b"}]",
    b"\xff\xfe[\0",
    b"\xff[]",
    b'["\\ud800"]',
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"r\.json"):
        read_detections(path, make_labels())
    with pytest.raises(UserError, match=r"r\.json"):
        read_labels(path, tmp_path)


def test_text_that_is_no_json_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_detections(tmp_path / "none.json", make_labels())
    (tmp_path / "r.json").write_text("[{")
    with pytest.raises(UserError, match="no valid JSON"):
        read_detections(tmp_path / "r.json", make_labels())


def test_annotations_without_score_count_as_certain(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entry = {name: value for name, value in ENTRY.items() if name != "score"}
    path.write_text(json.dumps({"annotations": [entry]}))
    assert read_detections(path, make_labels())["k7"].scores.tolist() == [1.0]


IMAGE = {"id": 7, "key": "k7", "file_name": "k7.jpg", "height": 9, "width": 9, "sha256": "", "labels": []}


def _written(tmp_path: Path, **changes: object) -> Path:
    content = json.loads(labels_bytes(make_labels().file))
    for name, value in changes.items():
        content[name] = value
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    return path


def test_labels_come_back(tmp_path: Path) -> None:
    found = read_labels(_written(tmp_path), tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.keys == ("k7", "k9")
    assert found.class_indexes(found.by_key()["k7"]) == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"info": {"format": "other"}}, "not a labels file of weaksam"),
        (
            {"info": {"format": "weaksam/labels", "format_version": 9}},
            "version 9, this program reads up to 2",
        ),
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]},
            "the class name 'cat' stands twice",
        ),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "the id of a class 1 stands"),
        ({"categories": [{"id": 1, "name": "cow"}]}, r"images\[0\]: unknown classes: cat"),
        ({"categories": [{"id": 1, "name": "a\0b"}]}, r"categories\[0\].name: String should match"),
        ({"images": [{"id": "x"}]}, r"images\[0\].id: expected a valid integer, got 'x'"),
        ({"images": [IMAGE, IMAGE]}, "the image 'k7' stands twice"),
        ({"images": [IMAGE, {**IMAGE, "key": "other"}]}, "the id of an image 7 stands twice"),
        ({"images": [{**IMAGE, "height": -1}]}, "height: expected greater than or equal to 0"),
        ({"images": [{**IMAGE, "height": 10**6, "width": 10**6}]}, "at most 100000000 were admitted"),
        ({"images": [{**IMAGE, "file_name": "../k7.jpg"}]}, "is not below the folder of images"),
        ({"images": [{**IMAGE, "file_name": "/etc/passwd"}]}, "is not below the folder of images"),
        ({"images": {"7": IMAGE}}, "images: expected a valid array"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(_written(tmp_path, **changes), tmp_path)


@given(st.sampled_from([0, 1, 2, 6, 7]), st.integers(0, 100))
def test_masks_come_back(tmp_path_factory: pytest.TempPathFactory, n: int, seed: int) -> None:
    path, labels = tmp_path_factory.mktemp("masks") / "r.json", make_labels()
    dense = np.random.default_rng(seed).random((n, 90, 100)) > 0.5
    given_ = replace(detections(n, seed), masks=tuple(encode(dense)))
    path.write_text("[" + ", ".join(result_texts(labels)("k9", given_)) + "]")
    assert read_detections(path, labels)["k9"].masks is None, "nobody asked for them"
    found = read_detections(path, labels, masks=True)
    assert has_masks(found) == (n > 0)
    np.testing.assert_array_equal(decode(found["k9"].masks or (), 90, 100), dense)
    order = np.arange(n)[::-1]
    np.testing.assert_array_equal(decode(found["k9"].take(order).masks or (), 90, 100), dense[order])
    path.write_bytes(annotations_bytes({"k9": given_}, labels))
    areas = [item["area"] for item in json.loads(path.read_text())["annotations"]]
    assert areas == dense.sum(axis=(1, 2)).tolist()
    assert read_detections(path, labels, masks=True)["k9"].masks == found["k9"].masks


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[0, 0, 10, 0, 10, 10]], True),
        ([], False),
        (None, False),
        ({"size": [90, 100], "counts": [9000]}, True),
        ({"size": [90, 101], "counts": [9090]}, "annotations[0].segmentation: run lengths of size [90, 101]"),
        ({"size": [90, 100], "counts": [8]}, "do not cover the image"),
        ({"size": [90, 100], "counts": "!"}, "damaged"),
        ([[0, 0]], "three points"),
        ("no", "expected polygons or run lengths"),
    ],
)
def test_foreign_masks(tmp_path: Path, segmentation: Any, expected: bool | str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{**ENTRY, "segmentation": segmentation}]))
    if isinstance(expected, str):
        with pytest.raises(UserError) as caught:
            read_detections(path, make_labels(), masks=True)
        assert expected in str(caught.value)
    else:
        assert has_masks(read_detections(path, make_labels(), masks=True)) is expected
    read_detections(path, make_labels())


def test_as_many_masks_as_boxes() -> None:
    with pytest.raises(ValueError, match="expected 2 masks, got 1"):
        replace(detections(2), masks=(b"",))
