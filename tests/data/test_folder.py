from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.data.helpers import read_labelled, sample
from weaksam_cli.artifacts import digest
from weaksam_cli.data import folder
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.stage import choose_layout
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


def tree(root: Path, *names: str) -> Path:
    """Files of these names: images, each of its own, and texts."""
    for number, name in enumerate(names):
        if name.endswith((".jpg", ".png")):
            sample(root / name, 20 + number)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("{}")
    return root


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/a/1.jpg", "val/b/2.jpg", "models/x.pt", "__MACOSX/train/a/1.jpg"], {"train": "train", "val": "test"}),
        (["TRAIN/a/1.jpg", "Validation/b/2.jpg", ".git/a/3.jpg"], {"TRAIN": "train", "Validation": "test"}),
        (["train/a/1.jpg", "dev/b/2.jpg", "testing/b/3.jpg"], {"train": "train", "dev": "test", "testing": "test"}),
        (["training_set/a/1.jpg", "test_set/b/2.jpg"], {"training_set": "train", "test_set": "test"}),
        (["seg_train/seg_train/a/1.jpg", "seg_test/seg_test/b/2.jpg"], {"seg_train": "train", "seg_test": "test"}),
        (["data/train/a/1.jpg", "data/val/b/2.jpg"], {"train": "train", "val": "test"}),
        (["pets/train/a/1.jpg", "pets/val/b/2.jpg"], {"train": "train", "val": "test"}),
        (["images/a/1.jpg", "images/b/2.jpg"], {"trainval": "train"}),
        (["a/1.jpg", "b/2.jpg", "a/@eaDir/1.jpg/thumb.jpg", ".ipynb_checkpoints/1.jpg"], {"trainval": "train"}),
    ],
)  # fmt: skip
def test_splits_and_classes_among_other_folders(
    tmp_path: Path, names: list[str], expected: dict[str, str]
) -> None:
    """Kind B: one stray folder made classes of splits."""
    assert choose_layout(str(tree(tmp_path, *names)), None) == "folder"
    found = splits(tmp_path)
    assert {name: split.role for name, split in found.items()} == expected
    images = [image for split in found.values() for image in split.images]
    assert {image.labels for image in images} == {("a",), ("b",)}
    assert len(images) == sum(name[0] not in "_." and name.count(".jpg") == 1 for name in names)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train/a/1.jpg", "train/b/2.jpg", "extra/b/3.jpg"], "the folders extra are not read"),
        (["train/a/1.jpg", "train/b/2.jpg", "test/3.jpg"], "the folders test are not read"),
        (["pets/a/1.jpg", "pets/b/2.jpg"], "pets is the only class, and holds the folders a, b"),
        (["a/1.jpg", "b/2.jpg", "classes.json", "about.csv"], "not read, as folders say the classes: about.csv, "),
        (["x/a/1.jpg", "x/b/2.jpg", "meta/train.txt", "meta/test.txt"], "all images are trainval: meta/test.txt, "),
        (["a/1.jpg", "b/2.jpg", "train_test_split.txt", "README.txt"], "are trainval: train_test_split.txt; put"),
        (["a/1.jpg", "b/2.jpg", "a/1.xml"], "annotations are not read, the folders are taken as classes: a/1.xml"),
        (["images/1.jpg", "labels/1.txt"], "the folders images are read as classes"),
    ],
)  # fmt: skip
def test_what_lies_beside_class_folders_is_told(tmp_path: Path, names: list[str], told: str) -> None:
    """Kinds A, B and M: `--layout folder` reads it all."""
    warnings = folder.read(tree(tmp_path, *names), folder.Recipe(), boxes=False).warnings
    assert any(told in text for text in warnings), warnings


def test_links_to_class_folders_are_named(tmp_path: Path) -> None:
    tree(tmp_path / "kept", "a/1.jpg", "b/2.jpg")
    place = tree(tmp_path / "linked", "notes.txt")
    for name in ("a", "b"):
        (place / name).symlink_to(tmp_path / "kept" / name)
    with pytest.raises(
        UserError, match=r"not recognised \(links to folders are not followed: a, b\); looked for"
    ):
        choose_layout(str(place), None)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["set1/1.jpg", "set1/1.xml", "set2/2.jpg"], "set1/1.xml"),
        (["a/1.jpg", "a/1.json", "b/2.jpg"], "a/1.json"),
        (["ds0/img/1.jpg", "ds0/ann/1.jpg.json"], "ds0/ann (1.jpg.json, ...)"),
        (["images/1.jpg", "masks/1.png"], "masks (masks)"),
        (["train/photos/1.jpg", "train/semantic_masks/1.png"], "train/semantic_masks (masks)"),
        (["train/1.png", "train_labels/1_L.png", "val/2.png"], "train_labels (masks)"),
        (["leftImg8bit/train/x/1.png", "gtFine/train/x/1.png"], "gtFine (masks)"),
        (["train/pics/1.jpg", "train/ann.json", "val/pics/2.jpg"], "train/ann.json"),
        (["kangaroo/1.jpg", "boxes.csv"], "boxes.csv"),
        (["JPEGImages/1.jpg"], "not recognised"),
        (["train/1.jpg", "val/2.jpg"], "not recognised"),
    ],
)
def test_an_annotated_dataset_never_becomes_class_folders(
    tmp_path: Path, names: list[str], told: str
) -> None:
    """Kind A: what is not read is named."""
    with pytest.raises(UserError, match=re.escape(told)):
        choose_layout(str(tree(tmp_path, *names)), None)


@pytest.mark.parametrize(
    "names",
    [
        ["mask/1.jpg", "no_mask/2.jpg"],
        ["train/1.jpg", "bus/2.jpg"],
        ["test_tube/1.jpg", "Ford GT/2.jpg"],
        ["a/1.jpg", "b/2.jpg", "labels.csv"],
        ["kangaroo/1.jpg"],
    ],
)
def test_classes_that_are_called_like_something_else(tmp_path: Path, names: list[str]) -> None:
    assert choose_layout(str(tree(tmp_path, *names)), None) == "folder"
    classes = {name.partition("/")[0] for name in names if "/" in name}
    assert set(splits(tmp_path)["trainval"].class_names) == classes


def test_many_images_of_one_name_and_size_are_each_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        path = tmp_path / f"class{number}" / "1.bmp"
        path.parent.mkdir()
        Image.new("RGB", (8, 8), (number // 2, 0, 0)).save(path)
    opened: list[Path] = []
    of_file = digest.of_file

    def noted(path: Path) -> str:
        opened.append(path)
        return of_file(path)

    monkeypatch.setattr(digest, "of_file", noted)
    found = keys(splits(tmp_path)["trainval"])
    assert len(found) == 20
    assert len(opened) == 40
    assert all(len(labels or ()) == 2 for _, labels in found)
