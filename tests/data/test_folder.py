from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import read_labelled, sample
from weaksam_cli.data import folder
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.errors import UserError


def splits(source: Path, images: Path | None = None, **options: Any) -> dict[str, DatasetSplit]:
    return {split.name: split for split in read_labelled(folder, source, images, **options)}


def keys(split: DatasetSplit) -> list[tuple[str, tuple[str, ...] | None]]:
    return [(image.key, image.labels) for image in split.images]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    for number, name in enumerate(["dog/1.jpg", "cat/1.jpg", "cat/1.png", "cat/deep/2.jpg", "big cat/3.jpg"]):
        sample(tmp_path / name, 20 + number)
    return tmp_path


def test_the_folder_is_the_label(zoo: Path) -> None:
    found = splits(zoo)
    assert list(found) == ["trainval"]
    assert found["trainval"].class_names == ("big cat", "cat", "dog")
    assert keys(found["trainval"]) == [
        ("big cat/3.jpg", ("big cat",)),
        ("cat/1.jpg", ("cat",)),
        ("cat/1.png", ("cat",)),
        ("cat/deep/2.jpg", ("cat",)),
        ("dog/1.jpg", ("dog",)),
    ]


def test_the_same_image_in_two_folders_has_both_labels(zoo: Path) -> None:
    shutil.copy(zoo / "dog" / "1.jpg", zoo / "cat" / "4.jpg")  # same bytes, other name: another image
    shutil.copy(zoo / "cat" / "deep" / "2.jpg", zoo / "dog" / "2.jpg")
    found = dict(keys(splits(zoo)["trainval"]))
    assert found["cat/deep/2.jpg"] == ("cat", "dog")
    assert "dog/2.jpg" not in found
    assert found["cat/4.jpg"] == ("cat",)
    assert found["dog/1.jpg"] == ("dog",)


def test_given_splits(tmp_path: Path) -> None:
    sample(tmp_path / "train" / "dog" / "1.jpg")
    sample(tmp_path / "train" / "cat" / "2.jpg")
    sample(tmp_path / "val" / "dog" / "3.jpg")
    found = splits(tmp_path)
    assert {name: split.role for name, split in found.items()} == {"train": "train", "val": "test"}
    assert found["val"].class_names == found["train"].class_names == ("cat", "dog")
    assert keys(found["val"]) == [("val/dog/3.jpg", ("dog",))]
    assert list(splits(tmp_path, splits={"val": "test"})) == ["val"]
    with pytest.raises(UserError, match=r"there is no split 'test'\. Available: train, val"):
        splits(tmp_path, splits={"test": "test"})


def test_what_is_left_out_is_told(zoo: Path) -> None:
    sample(zoo / "stray.jpg")
    (zoo / "cat" / "1.png").write_bytes(b"")
    reasons = {item.key: item.reason for item in splits(zoo)["trainval"].failed}
    assert reasons["stray.jpg"] == "lies in no class folder"
    assert "the file is empty" in reasons["cat/1.png"]


def test_images_that_cannot_be_read_are_named(zoo: Path) -> None:
    """Kind Q and F18: `.heic` was skipped without a word, and a link to itself stopped all of `data`."""
    (zoo / "cat" / "self.jpg").symlink_to("self.jpg")
    (zoo / "cat" / "new.heic").write_text("x")
    (zoo / "dog" / "link").symlink_to("../cat")
    shutil.copy(zoo / "dog" / "1.jpg", zoo / "dog" / "no suffix")
    found = splits(zoo)["trainval"]
    assert [remark.key for remark in found.failed] == ["cat/new.heic", "cat/self.jpg", "dog/link"]
    assert "HEIC is not read" in found.failed[0].reason
    assert ("dog/no suffix", ("dog",)) in keys(found)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labelled image"):
        splits(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "x.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 images of trainval can be read"):
        splits(tmp_path)


def test_class_list(zoo: Path) -> None:
    assert splits(zoo, classes=("dog", "cat", "big cat"))["trainval"].class_names == (
        "dog",
        "cat",
        "big cat",
    )
    with pytest.raises(UserError, match="the class 'dog' is not in the class list"):
        splits(zoo, classes=("cat", "big cat"))


def test_there_is_no_ground_truth(zoo: Path) -> None:
    assert not folder.read(zoo, folder.Recipe(), boxes=True).has_boxes
