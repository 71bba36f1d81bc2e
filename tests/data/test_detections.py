"""COCO results and labels files: round trips, and refusals in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import read_annotations, read_results, results_bytes
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
    path.write_bytes(results_bytes([("k9", given_)], labels))
    found = read_results(path, labels)
    assert set(found) == {"k7", "k9"}
    assert len(found["k7"]) == 0
    np.testing.assert_allclose(found["k9"].boxes, given_.boxes)
    np.testing.assert_array_equal(found["k9"].class_index, given_.class_index)
    np.testing.assert_allclose(found["k9"].scores, given_.scores, atol=1e-6)


ENTRY = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "expected a list of detections"),
        ([{**ENTRY, "image_id": 8}], "entry 0: image_id 8 is not in labels.json"),
        ([ENTRY, {**ENTRY, "category_id": 4}], "entry 1: category_id 4 is not in labels.json"),
        ([{**ENTRY, "image_id": "7"}], "image_id: expected an integer, got '7'"),
        ([{**ENTRY, "bbox": [1, 2, 3]}], "bbox: expected 4 finite numbers"),
        ([{**ENTRY, "bbox": [1, 2, 3, float("nan")]}], "bbox: expected 4 finite numbers"),
        ([{**ENTRY, "score": "high"}], "score: expected 1 finite numbers"),
        ([{"image_id": 7}], "has no category_id"),
        ([3], "has no image_id"),
    ],
)
def test_bad_results_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_results(path, make_labels())


def test_text_that_is_no_json_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_results(tmp_path / "none.json", make_labels())
    (tmp_path / "r.json").write_text("[{")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_results(tmp_path / "r.json", make_labels())


def test_annotations_without_score_count_as_certain(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    entry = {name: value for name, value in ENTRY.items() if name != "score"}
    path.write_text(json.dumps({"annotations": [entry]}))
    assert read_annotations(path, make_labels())["k7"].scores.tolist() == [1.0]


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
            "version 9, this program reads up to 1",
        ),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]}, "a class name occurs twice"),
        ({"categories": [{"id": 1, "name": "cow"}]}, "unknown classes"),
        ({"images": [{"id": "x"}]}, "images.0"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(_written(tmp_path, **changes), tmp_path)
