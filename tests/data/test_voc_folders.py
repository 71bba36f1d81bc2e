"""VOC-like datasets as people keep them: XML files anywhere, lists of any kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import read_labelled, sample, voc_object, voc_xml
from weaksam_cli.data import voc
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.errors import UserError

Splits = dict[str, tuple[str, list[str]]]


def tree(root: Path, *paths: str) -> Path:
    """Images and XML files by their suffixes; an XML file shows the class that its name begins with."""
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.lower().endswith(".xml"):
            place.write_text(voc_xml(voc_object("cat" if place.name[0] == "c" else "dog")))
        else:
            sample(place)
    return root


def write(root: Path, texts: Mapping[str, str]) -> None:
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode())


def splits_of(root: Path, **options: Any) -> Splits:
    """Split -> role and `key=labels`, with `!` behind the keys of what is left out."""
    found: Splits = {}
    for split in read_labelled(voc, root, **options):
        shown = [f"{image.key}={','.join(image.labels or ())}" for image in split.images]
        found[split.name] = (split.role, [*shown, *(f"{key}!" for key, _ in split.failed)])
        assert set(split.class_names) <= {"cat", "dog", *voc.VOC_CLASSES}
    return found


WHOLE = {"trainval": ("train", ["c1=cat", "d2=dog"])}
IN_SPLITS = {"train": ("train", ["c1=cat"]), "test": ("test", ["d2=dog"])}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["JPEGImages/c1.jpg", "JPEGImages/d2.jpg", "Annotations/c1.xml", "Annotations/d2.xml"], WHOLE),
        (["images/c1.jpg", "images/d2.jpg", "Annotations/c1.xml", "Annotations/d2.xml"], WHOLE),
        (["JPEGimages/c1.JPG", "JPEGimages/d2.png", "annotations/c1.XML", "annotations/d2.xml"], WHOLE),
        (["img/c1.jpg", "img/d2.jpg", "xmls/c1.xml", "xmls/d2.xml"], WHOLE),
        (["pics/c1.jpg", "pics/d2.jpg", "labels/c1.xml", "labels/d2.xml"], WHOLE),
        (["frames/c1.jpg", "frames/d2.jpg", "my_annotations/c1.xml", "my_annotations/d2.xml"], WHOLE),
        (["whatever/c1.jpg", "whatever/d2.jpg", "voc xml/c1.xml", "voc xml/d2.xml"], WHOLE),
        (["images/c1.jpg", "images/d2.jpg", "annotations/xmls/c1.xml", "annotations/xmls/d2.xml"], WHOLE),
        (["c1.jpg", "d2.jpg", "c1.xml", "d2.xml"], WHOLE),
        (["c1.jpg", "d2.jpg", "Annotations/c1.xml", "Annotations/d2.xml"], WHOLE),
        (["images/c1.jpg", "images/d2.jpg", "c1.xml", "d2.xml"], WHOLE),
        (["a/c1.jpg", "a/d2.jpg", "a/c1.xml", "a/d2.xml", "b/readme.jpg"], WHOLE),
        (["images/c1.jpg", "images/d2.jpg", "images/c1.xml", "images/d2.xml"], WHOLE),
        (["a/b/images/c1.jpg", "a/b/images/d2.jpg", "a/b/Annotations/c1.xml", "a/b/Annotations/d2.xml"], WHOLE),
        (
            ["VOCdevkit/VOC2007/" + path for path in ("JPEGImages/c1.jpg", "JPEGImages/d2.jpg", "Annotations/c1.xml")]
            + ["VOCdevkit/VOC2007/Annotations/d2.xml", "VOCdevkit/VOC2007/SegmentationClass/c1.png"],
            WHOLE,
        ),
        (
            ["images/c1.jpg", "images/d2.jpg", "Annotations/c1.xml", "Annotations/d2.xml", "Annotations_old/c1.xml",
             "__MACOSX/Annotations/._c1.xml", ".git/Annotations/c1.xml"],
            WHOLE,
        ),
        (
            ["images/c1.jpg", "images/d2.v1.jpg", "annotations/c1.jpg.xml", "annotations/d2.v1.xml"],
            {"trainval": ("train", ["c1.jpg=cat", "d2.v1=dog"])},
        ),
        (
            ["cat/c1.jpg", "cat/c1.xml", "dog/d1.jpg", "dog/d1.xml", "dog/c1.jpg", "dog/c1.xml"],
            {"trainval": ("train", ["cat/c1=cat", "dog/c1=cat", "dog/d1=dog"])},
        ),
        (
            ["images/cat/c1.jpg", "Annotations/cat/c1.xml", "images/dog/c1.jpg", "Annotations/dog/c1.xml"],
            {"trainval": ("train", ["cat/c1=cat", "dog/c1=cat"])},
        ),
        (["train/c1.jpg", "train/c1.xml", "test/d2.jpg", "test/d2.xml"], IN_SPLITS),
        (["train/images/c1.jpg", "train/Annotations/c1.xml", "test/images/d2.jpg", "test/Annotations/d2.xml"], IN_SPLITS),
        (["train/images/c1.jpg", "train/c1.xml", "test/images/d2.jpg", "test/d2.xml"], IN_SPLITS),
        (["images/train/c1.jpg", "annotations/train/c1.xml", "images/test/d2.jpg", "annotations/test/d2.xml"], IN_SPLITS),
        (["images/c1.jpg", "annotations/train/c1.xml", "images/d2.jpg", "annotations/test/d2.xml"], IN_SPLITS),
        (["train/c1.jpg", "test/d2.jpg", "Annotations/c1.xml", "Annotations/d2.xml"], IN_SPLITS),
        (["images/train/c1.jpg", "images/test/d2.jpg", "xml/c1.xml", "xml/d2.xml"], IN_SPLITS),
        (["train_images/c1.jpg", "train_xml/c1.xml", "test_images/d2.jpg", "test_xml/d2.xml"], IN_SPLITS),
        (["ds/Train/c1.jpg", "ds/Train/c1.xml", "ds/TEST/d2.jpg", "ds/TEST/d2.xml"], IN_SPLITS),
        (
            ["train/c1.jpg", "train/c1.xml", "valid/d2.jpg", "valid/d2.xml", "test/c1.jpg", "test/c1.xml"],
            {"train": ("train", ["c1=cat"]), "valid": ("test", ["d2=dog"]), "test": ("test", ["c1=cat"])},
        ),
        (
            ["train/a/c1.jpg", "train/a/c1.xml", "train/b/d1.jpg", "train/b/d1.xml", "val/a/c1.jpg", "val/a/c1.xml"],
            {"train": ("train", ["a/c1=cat", "b/d1=dog"]), "val": ("test", ["a/c1=cat"])},
        ),
    ],
)  # fmt: skip
def test_xml_files_anywhere_are_voc(tmp_path: Path, paths: Sequence[str], expected: Splits) -> None:
    root = tree(tmp_path / "ds", *paths)
    assert choose_layout(str(root), None) == "voc"
    assert splits_of(root) == expected
    for split in read_labelled(voc, root):
        for image in split.images:
            assert image.path.stem == Path(image.key).name or image.path.name == Path(image.key).name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("valid", {"valid": ("test", ["d2=dog"])}),
        ("train", {"train": ("train", ["c1=cat"])}),
        ("train/Annotations", {"train": ("train", ["c1=cat"])}),
    ],
)
def test_a_part_of_a_dataset_alone(tmp_path: Path, source: str, expected: Splits) -> None:
    tree(tmp_path, "train/images/c1.jpg", "train/Annotations/c1.xml", "valid/d2.jpg", "valid/d2.xml")
    assert splits_of(tmp_path / source) == expected


def warnings_of(root: Path) -> list[str]:
    """What is told of the dataset and of its splits."""
    told = voc.read(root, voc.Recipe(), boxes=False).warnings
    return [*told, *(remark.reason for split in read_labelled(voc, root) for remark in split.warnings)]


def test_what_belongs_to_no_split_is_told(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "ds", "train/c1.jpg", "train/c1.xml", "extra/c3.xml", "extra/c4.xml", "extra/c3.jpg"
    )
    assert splits_of(root) == {"train": ("train", ["c1=cat"])}
    assert warnings_of(root) == ["2 XML files belong to no split and are not read, in extra"]


def test_images_in_no_folder_of_a_split_are_told(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "ds", "images/train/c1.jpg", "images/d2.jpg", "xml/c1.xml", "xml/d2.xml", "xml/d3.xml"
    )
    assert splits_of(root) == {"train": ("train", ["c1=cat"])}
    assert warnings_of(root) == ["2 images lie in no folder of a split and are in none: d2, d3"]


def test_lists_above_a_nested_dataset_are_used(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", *(f"nested/{path}" for path in FOUR))
    write(root, {"train.txt": "nested/JPEGImages/c1.jpg\nnested/JPEGImages/d3.jpg", "test.txt": "d4"})
    assert splits_of(root) == DIVIDED


def test_images_of_a_split_without_xml_files_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", "train/c1.jpg", "train/c1.xml", "test/c3.jpg", "test/c4.jpg")
    assert warnings_of(root) == ["2 images of test have no XML file and are not read"]


def test_lists_beside_folders_of_splits_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", "train/c1.jpg", "train/c1.xml", "test/d2.jpg", "test/d2.xml")
    write(root, {"ImageSets/Main/train.txt": "c1"})
    assert splits_of(root) == IN_SPLITS
    assert warnings_of(root) == [
        "the folders train, test are the splits; the lists in ImageSets are not used"
    ]


def test_images_without_annotation_are_listed(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "ds",
        "train/c1.jpg",
        "train/c1.xml",
        "train/d3.jpg",
        "test/d2.jpg",
        "test/d2.xml",
        "test/d4.jpg",
    )
    assert splits_of(root) == {"train": ("train", ["c1=cat", "d3!"]), "test": ("test", ["d2=dog", "d4="])}


def test_annotations_without_image_are_listed(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", "images/c1.jpg", "images/d2.jpg", "xml/c1.xml", "xml/c3.xml", "xml/d2.xml")
    assert splits_of(root) == {"trainval": ("train", ["c1=cat", "d2=dog", "c3!"])}


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    root = tree(tmp_path, "ds/c1.xml", "ds/d2.xml", "far/away/c1.jpg", "far/away/d2.jpg")
    with pytest.raises(UserError, match=r"images are not found.*--images FOLDER"):
        read_labelled(voc, root / "ds")
    (split,) = read_labelled(voc, root / "ds", root / "far")
    assert [image.key for image in split.images] == ["c1", "d2"]
    with pytest.raises(UserError, match="no such folder of images"):
        read_labelled(voc, root / "ds", root / "absent")


FOUR = [
    place
    for name in ("c1", "c2", "d3", "d4")
    for place in (f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml")
]
DIVIDED = {"train": ("train", ["c1=cat", "d3=dog"]), "test": ("test", ["d4=dog"])}
MAIN = "ImageSets/Main"


@pytest.mark.parametrize(
    ("place", "train", "test"),
    [
        ("ImageSets/Main/{}.txt", "c1\nd3\n", "d4\n"),
        ("ImageSets/{}.txt", "c1\r\nd3\r\n", "d4\r\n"),
        ("ImageSets/Segmentation/{}.txt", "c1\nd3", "d4"),
        ("ImageSets/Layout/{}.txt", "c1 1\nd3 1\nd3 2", "d4 1"),
        ("ImageSets/Action/running_{}.txt", "c1 1 -1\nd3 1 1", "d4 1 1"),
        ("ImageSets/CLS-LOC/{}.txt", "c1 1\nd3 2\n", "d4 3\n"),
        ("imagesets/main/{}.txt", "c1\nd3\n", "d4\n"),
        ("ImageSets/Main/{}.txt", "c1.jpg\nd3.JPG\n", "d4.xml\n"),
        ("ImageSets/Main/{}.txt", "JPEGImages/c1.jpg\n./d3\n", "Annotations/d4.xml\n"),
        ("ImageSets/Main/{}.txt", "C:\\x\\c1.jpg\nC:\\x\\d3.jpg", "D:\\y\\d4.jpg"),
        ("ImageSets/Main/{}.txt", "c1,1\nd3,0\n", '"d4",1\n'),
        ("ImageSets/Main/{}.txt", "c1\t1\tx\nd3\t0\ty\n", "d4\t1\tz\n"),
        ("ImageSets/Main/{}.txt", "\ufeffc1\n\n  d3  \n", "d4"),
        ("ImageSets/Main/{}", "c1\nd3\n", "d4\n"),
        ("ImageSets/Main/cat_{}.txt", "c1.jpg 1\nd3.jpg -1", "d4 -1"),
        ("{}.txt", "c1\nd3", "d4"),
        ("{}.txt", "JPEGImages/c1.jpg Annotations/c1.xml\nJPEGImages/d3.jpg Annotations/d3.xml", "d4"),
        ("{}.csv", "filename,class\nc1.jpg,cat\nd3.jpg,dog\nd3.jpg,dog", "filename,class\nd4.jpg,dog"),
        ("data/{}_labels.csv", "filename,width\nc1.jpg,4\nd3.jpg,4", "filename,width\nd4.jpg,4"),
        ("JPEGImages/{}.txt", "c1.jpg\nd3.jpg", "d4.jpg"),
        ("ImageSets/{}/list.txt", "c1\nd3", "d4"),
        ("{}list.txt", "c1\nd3", "d4"),
        ("Annotations/{}.txt", "c1 1 1\nd3 1 2", "d4 1 2"),
        ("lists/{}_list.lst", "/home/a/c1.jpg\n/home/a/d3.jpg", "/home/a/d4.jpg"),
    ],
)
def test_lists_anywhere_are_used(tmp_path: Path, place: str, train: str, test: str) -> None:
    root = tree(tmp_path / "ds", *FOUR)
    write(root, {place.format("train"): train, place.format("test"): test})
    assert splits_of(root) == DIVIDED
    told = [line for line in warnings_of(root) if not line.startswith("there is no list in")]
    assert told == ["1 images stand in no list and are in no split: c2"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"cat_train.txt": "c1", "dog_train.txt": "d3", "dog_test.txt": "d4"}, DIVIDED),
        ({"train.txt": "c1\nd3", "dog_test.txt": "d4 1"}, DIVIDED),
        (
            {"fold1.txt": "c1\nd3", "fold2.txt": "d4"},
            {"fold1": DIVIDED["train"], "fold2": ("train", ["d4=dog"])},
        ),
        (
            {"train.txt": "c1\nd3\nx9\n", "test.txt": "d4"},
            DIVIDED | {"train": ("train", ["c1=cat", "d3=dog", "x9!"])},
        ),
        (
            {"train.txt": "c1", "val.txt": "d3", "test.txt": "d4"},
            {"train": ("train", ["c1=cat"]), "val": ("test", ["d3=dog"]), "test": ("test", ["d4=dog"])},
        ),
    ],
)
def test_kinds_of_lists(tmp_path: Path, texts: Mapping[str, str], expected: Splits) -> None:
    root = tree(tmp_path / "ds", *FOUR)
    write(root, {f"{MAIN}/{name}": text for name, text in texts.items()})
    assert splits_of(root) == expected


def test_a_list_in_utf_16(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", *FOUR)
    (root / "train.txt").write_text("c1\nd3\n", encoding="utf-16")
    assert splits_of(root) == {"train": DIVIDED["train"]}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            {"ImageSets/Main/mine.txt": "a\nb\n"},
            "1 files are not understood as lists of this dataset and not used: ImageSets/Main/mine.txt",
        ),
        ({"ImageSets/Main/train.json": "{}"}, "1 files .*: ImageSets/Main/train.json"),
        (
            {"ImageSets/train.txt": "", "ImageSets/val.txt": "\n"},
            "2 files .*: ImageSets/train.txt, ImageSets/val.txt",
        ),
        ({"ImageSets/Main/cat/train.txt": "c1"}, "1 files .*: ImageSets/Main/cat/train.txt"),
        ({"splits/train.json": "[]"}, "1 files .*: splits/train.json"),
        ({"train.txt": "alpha\nbeta\n", "test.txt": "gamma"}, "2 files .*: test.txt, train.txt"),
    ],
)
def test_lists_that_name_no_image_are_told(tmp_path: Path, texts: Mapping[str, str], told: str) -> None:
    root = tree(tmp_path / "ds", *FOUR)
    write(root, texts)
    assert splits_of(root) == {"trainval": ("train", ["c1=cat", "c2=cat", "d3=dog", "d4=dog"])}
    (line,) = warnings_of(root)
    assert re.match(told, line)


def test_an_official_list_of_other_images_is_no_reason_to_read_all(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", *FOUR)
    write(root, {"ImageSets/Main/train.txt": "x1\nx2\n"})
    told = r"none of the 2 images of train can be read; x1: there is neither an image nor an XML file of this name"
    with pytest.raises(UserError, match=told):
        read_labelled(voc, root)


def test_text_files_that_are_no_lists_are_passed_over(tmp_path: Path) -> None:
    root = tree(tmp_path / "ds", *FOUR)
    write(root, {"README.txt": "c1", "classes.txt": "cat\ndog", "JPEGImages/notes.txt": "d3"})
    assert list(splits_of(root)) == ["trainval"]
    assert warnings_of(root) == []
