from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import sample
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.folder import Recipe, held_out, read
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.source import Source
from weaksam_cli.errors import UserError


def splits(source: Path, images: Path | None = None, **options: Any) -> dict[str, DatasetSplit]:
    return {split.name: split for split in read(source, Recipe(**options), images)}


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
    with pytest.raises(UserError, match="splits already"):
        splits(tmp_path, test_share=0.5)


def test_held_out_share_depends_on_the_key_alone(tmp_path: Path) -> None:
    for number in range(40):
        sample(tmp_path / "cat" / f"{number}.png", 2, 2)
    found = splits(tmp_path, test_share=0.25)
    assert {name: split.role for name, split in found.items()} == {"trainval": "train", "test": "test"}
    assert sorted(key for split in found.values() for key, _ in keys(split)) == sorted(
        f"cat/{number}.png" for number in range(40)
    )
    assert all(held_out(key, 0.25) for key, _ in keys(found["test"]))
    share = sum(held_out(f"image {number}", 0.25) for number in range(4000)) / 4000
    assert abs(share - 0.25) < 0.02


def test_what_is_left_out_is_told(zoo: Path) -> None:
    sample(zoo / "stray.jpg")
    (zoo / "cat" / "1.png").write_bytes(b"")
    reasons = {item.key: item.reason for item in splits(zoo)["trainval"].failed}
    assert reasons["stray.jpg"] == "lies in no class folder"
    assert "the file is empty" in reasons["cat/1.png"]


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
    source = Source(layout="folder", path=".", image_root=".", splits={})
    assert read_ground_truth(zoo, source, "trainval") is None


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    for name in ("a.jpg", "sub/ü, b.jpg", "c.jpg"):
        sample(root / name)
    path = root / "labels.csv"
    path.write_text(text, encoding=encoding, newline="")
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(tmp_path: Path, encoding: str, end: str) -> None:
    lines = ["Image, Label", "a.jpg,dog; cat;;dog", '"sub/ü, b.jpg","traffic light"', "", "c.jpg,"]
    path = table(tmp_path, end.join(lines) + end, encoding)
    for source in (path, tmp_path):
        split = splits(source)["trainval"]
        assert split.class_names == ("cat", "dog", "traffic light")
        assert keys(split) == [
            ("a.jpg", ("cat", "dog")),
            ("sub/ü, b.jpg", ("traffic light",)),
            ("c.jpg", None),
        ]


def test_csv_with_splits_and_several_rows_of_one_image(tmp_path: Path) -> None:
    path = table(
        tmp_path, "split,image,labels\ntrain,a.jpg,dog\ntrain,./a.jpg,cat\nval,c.jpg,\n,sub/ü; b.jpg,x\n"
    )
    sample(tmp_path / "sub" / "ü; b.jpg")
    found = splits(path)
    assert {name: keys(split) for name, split in found.items()} == {
        "train": [("a.jpg", ("cat", "dog"))],
        "val": [("c.jpg", None)],
        "trainval": [("sub/ü; b.jpg", ("x",))],
    }
    path.write_text("split,image,labels\ntrain,a.jpg,dog\nval,a.jpg,cat\n")
    with pytest.raises(UserError, match=r"line 3: 'a.jpg' belongs to 'val' here and to 'train' in line 2"):
        splits(path)


def test_csv_images_elsewhere(tmp_path: Path) -> None:
    sample(tmp_path / "images" / "a.jpg")
    path = tmp_path / "t.csv"
    path.write_text("image,label\na.jpg,x\n")
    assert keys(splits(path)["trainval"]) == [("a.jpg", ("x",))]
    shutil.move(tmp_path / "images", tmp_path / "there")
    assert keys(splits(path, images=tmp_path / "there")["trainval"]) == [("a.jpg", ("x",))]
    with pytest.raises(UserError, match=r"line 2: .*--images FOLDER"):
        splits(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one column 'image', got the columns nothing"),
        ("a.jpg,dog\n", "line 1: expected one column 'image', got the columns a.jpg, dog"),
        ("image,path,label\n", "got several of them"),
        ("image,label\n", "the table has no rows"),
        ("image,label\na.jpg,dog\nc.jpg,dog,cat\n", "line 3: expected 2 columns, got 3"),
        ("image,label\na.jpg,dog\n\nd.jpg,dog\n", r"line 4: there is no image 'd.jpg'.*did you mean"),
        ("image,label\na.jpg,dog\n../x.jpg,dog\n", "line 3: the path '../x.jpg' leaves the folder"),
        ('image,label\na.jpg,"dog\n', "unexpected end of data"),
        ("image,label\na.jpg,\n", "no labelled image"),
    ],
)
def test_csv_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        splits(table(tmp_path, text))


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        splits(table(tmp_path, "image,label\na.jpg,Köter\n", "latin-1"))
