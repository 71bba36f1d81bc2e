"""The labels artifact: versions, the size limit that travels with it, and what difficult objects count for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.data.helpers import make_voc, read_labelled, voc_object, voc_xml
from tests.data.test_images import png_header
from weaksam_cli.artifacts import digest
from weaksam_cli.data import voc
from weaksam_cli.data.dataset import Difficult
from weaksam_cli.data.labels import Labels, common_root, labels_bytes, labels_file, read_labels
from weaksam_cli.errors import ImageError, UserError

VERSION_1 = {
    "info": {
        "format": "weaksam/labels",
        "format_version": 1,
        "dataset": "d",
        "split": "trainval",
        "role": "train",
    },
    "categories": [{"id": 1, "name": "cat"}],
    "images": [
        {
            "id": 1,
            "key": "a.png",
            "file_name": "a.png",
            "height": 1,
            "width": 2,
            "sha256": "",
            "labels": ["cat"],
        }
    ],
    "annotations": [],
    "failed": [],
}


def write(path: Path, image: bytes, **info: Any) -> Labels:
    """Labels of one image with these bytes."""
    content = json.loads(json.dumps(VERSION_1))
    content["info"].update(info)
    (path / "a.png").write_bytes(image)
    content["images"][0]["sha256"] = digest.of_bytes(image)
    (path / "labels.json").write_text(json.dumps(content))
    return read_labels(path / "labels.json", path)


def test_version_1_still_reads(tmp_path: Path) -> None:
    Image.new("RGB", (2, 1)).save(tmp_path / "a.png")
    labels = write(tmp_path, (tmp_path / "a.png").read_bytes())
    assert labels.file.images[0].difficult == []
    assert labels.read_image(labels.file.images[0]).shape == (1, 2, 3)
    assert labels.counting("exclude").file.images == labels.file.images


def test_the_limit_that_was_chosen_travels_with_the_labels(tmp_path: Path) -> None:
    large = write(tmp_path, png_header(10000, 9500))
    with pytest.raises(
        ImageError, match="cannot be decoded"
    ):  # 95 megapixels are admitted, but there are no pixels
        large.read_image(large.file.images[0])
    small = write(tmp_path, png_header(100, 100), format_version=2, max_pixels=9999)
    with pytest.raises(ImageError, match="more than the limit of 9999"):
        small.read_image(small.file.images[0])


def test_data_writes_its_limit(tmp_path: Path) -> None:
    root = make_voc(tmp_path, {"1": voc_xml(voc_object("dog"))}, {"trainval": ["1"]})
    (split,) = read_labelled(voc, root, max_pixels=5000)
    file = labels_file("d", split, common_root([split]), 5000)
    assert file.info.max_pixels == 5000
    (tmp_path / "labels.json").write_bytes(labels_bytes(file))
    assert read_labels(tmp_path / "labels.json", root).file == file
    with pytest.raises(UserError, match="limit of 1199"):
        read_labelled(voc, root, max_pixels=1199)


@pytest.mark.parametrize("written", ["exclude", "include"])
def test_every_stage_can_count_difficult_objects_or_not(tmp_path: Path, written: Difficult) -> None:
    hard = [voc_object("cat", difficult="1"), voc_object("dog"), voc_object("dog", difficult="1")]
    root = make_voc(
        tmp_path,
        {"1": voc_xml(*hard), "2": voc_xml(voc_object("cat", difficult="1")), "3": None},
        {"trainval": ["1", "2"], "test": ["3"]},
    )
    train, test = read_labelled(voc, root, difficult=written)
    labels = Labels(root, labels_file("d", train, common_root([train]), 10**6), root)
    shown = {"exclude": [["dog"], []], "include": [["cat", "dog"], ["cat"]]}
    assert [image.labels for image in labels.file.images] == shown[written]
    for choice in ("exclude", "include"):
        chosen = labels.counting(choice)
        assert [image.labels for image in chosen.file.images] == shown[choice]
        assert [chosen.class_indexes(image) for image in chosen.file.images][1] == (
            [7] if choice == "include" else []
        )
    assert labels.counting(None) is labels
    nobody = Labels(root, labels_file("d", test, common_root([test]), 10**6), root).counting("include")
    assert [image.labels for image in nobody.file.images] == [None]


def test_names_in_a_labels_file_are_plain_words(tmp_path: Path) -> None:
    for field in ("split", "dataset"):
        with pytest.raises(UserError, match=f"cannot be the name of a {field}"):
            write(tmp_path, b"", **{field: "../x"})


def test_a_version_that_is_no_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a labels file of weaksam"):
        write(tmp_path, b"", format_version="two")
