from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.helpers import make_voc, read_labelled, read_truth, sample, voc_object, voc_xml
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data import voc
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.data.voc import VOC_CLASSES
from weaksam_cli.data.voc.folders import find_voc
from weaksam_cli.errors import UserError

BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>' + voc_xml(voc_object("&y;"))


def detect(root: Path) -> str:
    return choose_layout(str(root), None)


def labels(root: Path, **options: Any) -> dict[str, DatasetSplit]:
    return {split.name: split for split in read_labelled(voc, root, **options)}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    part = "<part><name>wheel</name><bndbox><xmin>2</xmin></bndbox></part>"
    return make_voc(
        tmp_path / "VOC2007",
        {
            "1": voc_xml(voc_object("dog"), voc_object("cat", difficult="1"), voc_object("dog", extra=part)),
            "2": voc_xml(voc_object("cat", difficult="1")),
            "3": voc_xml(voc_object("person", difficult=None), size=None),
            "4": None,
        },
        {
            "trainval": ["1", "2"],
            "test": ["3", "4"],
            "cat_trainval": ["1 -1", "2  0"],
            "cat_test": ["3 -1", "4 -1"],
        },
    )


def test_labels_and_conventions_for_difficult(small: Path) -> None:
    exclude, include = labels(small), labels(small, difficult="include")
    assert list(exclude) == ["trainval", "test"]
    assert [(image.key, image.labels) for image in exclude["trainval"].images] == [("1", ("dog",)), ("2", ())]
    assert [image.labels for image in include["trainval"].images] == [("cat", "dog"), ("cat",)]
    assert [(image.key, image.labels) for image in exclude["test"].images] == [
        ("3", ("person",)),
        ("4", None),
    ]
    assert exclude["trainval"].class_names == VOC_CLASSES
    assert exclude["trainval"].category_ids == tuple(range(1, 21))
    assert (exclude["trainval"].role, exclude["test"].role) == ("train", "test")
    assert [image.difficult for image in exclude["trainval"].images] == [("cat",), ("cat",)]
    image = exclude["trainval"].images[0]
    assert (image.height, image.width, image.path.name) == (30, 40, "1.jpg")


def test_ground_truth_is_apart(small: Path) -> None:
    truth = read_truth(voc, small, "trainval")
    assert truth.class_names == VOC_CLASSES
    objects = truth.images[0].objects
    assert objects.boxes.tolist() == [[0, 0, 10, 10]] * 3
    assert [truth.class_names[index] for index in objects.class_index] == ["dog", "cat", "dog"]
    assert objects.difficult.tolist() == [False, True, False]
    assert objects.areas is not None and np.isnan(objects.areas).all(), "VOC says none"
    test = read_truth(voc, small, "test")
    assert [image.key for image in test.images] == ["3"]
    assert [(item.key, item.reason) for item in test.failed] == [
        ("4", "has no annotation, so no ground truth")
    ]


def test_firewall_labels_do_not_depend_on_boxes(small: Path) -> None:
    before = [labels(small, difficult=choice) for choice in ("exclude", "include")]
    for path in (small / "Annotations").glob("*.xml"):
        path.write_text(re.sub(r"<bndbox>.*?</bndbox>", "", path.read_text(), flags=re.DOTALL))
    assert [labels(small, difficult=choice) for choice in ("exclude", "include")] == before
    with pytest.raises(UserError, match="have no boxes"):
        read_truth(voc, small, "trainval")


def test_classes_outside_voc_are_sorted_and_the_same_for_every_split(small: Path) -> None:
    (small / "Annotations" / "3.xml").write_text(voc_xml(voc_object("ünï/corn 🦄")))
    expected = ("cat", "dog", "ünï/corn 🦄")
    assert labels(small)["trainval"].class_names == expected
    assert labels(small, splits={"trainval": "train"})["trainval"].class_names == expected
    assert read_truth(voc, small, "trainval").class_names == expected


def test_class_list(small: Path) -> None:
    given = labels(small, classes=("person", "dog", "cat"))
    assert given["trainval"].class_names == ("person", "dog", "cat")
    assert given["trainval"].images[0].labels == ("dog",)
    with pytest.raises(
        UserError, match=r"VOC2007: 1: the class 'dog' is not in the class list, did you mean 'doggo'"
    ):
        labels(small, classes=("doggo", "cat", "person"))


def test_two_spellings_are_told(small: Path) -> None:
    (small / "Annotations" / "1.xml").write_text(voc_xml(voc_object("tvmonitor"), voc_object("tv monitor")))
    assert "two spellings" in labels(small)["trainval"].warnings[0].reason


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (BOMB, "entities"),
        ("<annotation><object>", "no valid XML"),
        ("", "no valid XML"),
        ("<image/>", "root element is <image>"),
        (voc_xml(voc_object("")), "object 1 has no <name>"),
    ],
)
def test_unusable_annotation_is_listed(small: Path, xml: str, reason: str) -> None:
    (small / "Annotations" / "2.xml").write_text(xml)
    split = labels(small)["trainval"]
    assert [image.key for image in split.images] == ["1"]
    assert split.failed[0].key == "2"
    assert re.search(reason, split.failed[0].reason)


@pytest.mark.parametrize(
    ("flag", "is_difficult", "is_told"),
    [
        ("1", True, False),
        (" True\n", True, False),
        ("1.0", True, False),
        ("0", False, False),
        ("0.0", False, False),
        ("", False, False),
        ("Unspecified", False, False),
        ("None", False, False),
        ("no", False, False),
        ("perhaps", False, True),
        ("2", False, True),
    ],
)
def test_difficult_in_many_words(small: Path, flag: str, is_difficult: bool, is_told: bool) -> None:
    text = voc_xml(voc_object("dog", difficult=flag), voc_object("person", difficult=flag))
    (small / "Annotations" / "2.xml").write_text(text)
    split = labels(small)["trainval"]
    assert split.images[1].labels == (() if is_difficult else ("dog", "person"))
    assert [warning.reason.startswith("1 XML files say <difficult>") for warning in split.warnings] == [
        True
    ] * is_told


def test_a_name_is_its_words(small: Path) -> None:
    (small / "Annotations" / "2.xml").write_text(
        voc_xml(voc_object(" polar\n  bear "), voc_object("polar bear"))
    )
    assert labels(small)["trainval"].images[1].labels == ("polar bear",)


def test_sizes_of_zero_are_told_in_one_line(small: Path) -> None:
    for name in ("1", "2"):
        (small / "Annotations" / f"{name}.xml").write_text(voc_xml(voc_object("dog"), size=(0, 0)))
    (warning,) = labels(small)["trainval"].warnings
    assert warning.reason == "2 XML files give a <size> without pixels; the size of the image is taken: 1, 2"


XML = voc_xml(voc_object("鼠"))


@pytest.mark.parametrize(
    "data",
    [
        XML.encode(),
        b"\xef\xbb\xbf" + XML.encode(),
        b'\n \n<?xml version="1.0" encoding="utf-8"?><!-- <annotations> -->' + XML.encode(),
        XML.encode("utf-16"),
        b'<?xml version="1.0" encoding="GB2312"?>' + XML.encode("gb2312"),
        b'<?xml version="1.0" encoding="shift_jis"?>' + XML.encode("shift_jis"),
        XML.replace("<annotation", '<annotation xmlns="http://example.com/voc"').encode(),
        XML.replace("<annotation", '<v:annotation xmlns:v="http://x"')
        .replace("</annotation", "</v:annotation")
        .encode(),
    ],
)
def test_encodings_and_namespaces(tmp_path: Path, data: bytes) -> None:
    sample(tmp_path / "ds" / "1.jpg")
    (tmp_path / "ds" / "1.xml").write_bytes(data)
    assert detect(tmp_path / "ds") == "voc"
    (split,) = labels(tmp_path / "ds").values()
    assert [image.labels for image in split.images] == [("鼠",)]


def test_xml_of_other_programs_is_not_voc(tmp_path: Path) -> None:
    for name, text in (
        ("pom.xml", "<project/>"),
        ("annotations.xml", "<annotations/>"),
        ("1.xml", ""),
        ("2.xml", "no"),
    ):
        (tmp_path / name).write_text(text)
    assert voc.likeness(tmp_path) == 0
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text("<annotation><obj")
    assert voc.likeness(tmp_path) == 3


def test_files_that_are_none_are_named(small: Path) -> None:
    shutil.rmtree(small / "ImageSets")
    os.mkfifo(small / "Annotations" / "0.xml")
    (small / "Annotations" / "5.xml").symlink_to("5.xml")
    (small / "Annotations" / "6.xml").mkdir()
    (small / "JPEGImages" / "7.heic").write_bytes(b"\0\0\0\x1cftypheic")
    (small / "Annotations" / "7.xml").write_text(voc_xml(voc_object("dog")))
    (small / os.fsdecode(b"Annotations/\xff.xml")).write_text(voc_xml(voc_object("dog")))
    sample(small / "JPEGImages" / "x.jpg").rename(small / os.fsdecode(b"JPEGImages/\xfe.jpg"))
    split = labels(small)["trainval"]
    assert [image.key for image in split.images] == ["1", "2", "3"]
    reasons = dict(split.failed)
    assert reasons.keys() == {"0", "4", "5", "7", "\\udcfe", "\\udcff"}
    assert "0.xml: it is no regular file" in reasons["0"]
    assert "5.xml cannot be read (Too many levels of symbolic links)" in reasons["5"]
    assert "HEIC" in reasons["7"]
    assert "not valid UTF-8" in reasons["\\udcfe"]


def test_a_link_to_a_folder_above_is_walked_once(small: Path) -> None:
    (small / "Annotations" / "again").symlink_to("..")
    (small / "JPEGImages" / "again").symlink_to(".")
    assert [image.key for image in labels(small)["trainval"].images] == ["1", "2"]


def test_a_dataset_of_links(small: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in ("JPEGImages", "Annotations", "ImageSets"):
        (linked / folder).symlink_to(small / folder)
    assert [image.key for image in labels(linked)["trainval"].images] == ["1", "2"]


def test_missing_annotation_fails_a_training_image(small: Path) -> None:
    (small / "Annotations" / "2.xml").unlink()
    assert "has no annotation" in labels(small)["trainval"].failed[0].reason
    (small / "Annotations" / "1.xml").unlink()
    with pytest.raises(UserError, match="none of the 2 images of trainval can be read; 1: has no annotation"):
        labels(small)


def test_unreadable_images_are_listed(small: Path) -> None:
    (small / "JPEGImages" / "1.jpg").write_bytes(b"")
    split = labels(small)["trainval"]
    assert [image.key for image in split.images] == ["2"]
    assert "the file is empty" in split.failed[0].reason
    (small / "JPEGImages" / "1.jpg").unlink()
    assert "there is no image of this name in JPEGImages" in labels(small)["trainval"].failed[0].reason


def test_other_suffix_and_two_files_of_one_stem(small: Path) -> None:
    folder = small / "JPEGImages"
    (folder / "1.jpg").unlink()
    sample(folder / "1.PNG")
    assert labels(small)["trainval"].images[0].path.name == "1.PNG"
    sample(folder / "1.jpeg")
    assert "several images" in labels(small)["trainval"].failed[0].reason
    (small / "Annotations" / "1.xml").write_text(voc_xml(voc_object("dog"), filename="1.jpeg"))
    assert labels(small)["trainval"].images[0].path.name == "1.jpeg"


@pytest.mark.parametrize(
    ("files", "expected", "told"),
    [
        # both are there: the XML file's own name, as in VOC
        (
            {"1": "2.jpg", "2": "1.jpg"},
            {"1": "1.jpg", "2": "2.jpg"},
            "2 XML files name another image in <filename>; the image of the XML file's own name is taken: "
            "1 (2.jpg), 2 (1.jpg)",
        ),
        # only the XML file's own is there
        (
            {"1": "C:\\old\\IMG_7.JPG", "2": "2.png"},
            {"1": "1.jpg", "2": "2.jpg"},
            "1 XML files name another image in <filename>; the image of the XML file's own name is taken: 1 (IMG_7.JPG)",
        ),
        # only the one of <filename> is there
        (
            {"a1": "dir/1.jpg", "2": "2"},
            {"a1": "1.jpg", "2": "2.jpg"},
            "1 XML files have no image of their own name; the one that <filename> names is taken: a1 (1.jpg)",
        ),
        # all are renamed
        (
            {"a1": "1.jpg", "a2": "2.jpg"},
            {"a1": "1.jpg", "a2": "2.jpg"},
            "2 XML files have no image of their own name; the one that <filename> names is taken: a1 (1.jpg), a2 (2.jpg)",
        ),
        ({"1": "", "2": "../2.JPG"}, {"1": "1.jpg", "2": "2.jpg"}, None),
    ],
)
def test_file_names_that_disagree(
    tmp_path: Path, files: dict[str, str], expected: dict[str, str], told: str | None
) -> None:
    root = make_voc(tmp_path / "ds", {"1": None, "2": None}, {})
    for stem, name in files.items():
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(voc_object("dog"), filename=name))
    split = labels(root)["trainval"]
    assert {image.key: image.path.name for image in split.images} == expected
    assert [warning.reason for warning in split.warnings] == ([told] if told else [])
    assert split.failed == ()


def test_an_image_belongs_to_one_annotation(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "ds", {"1": voc_xml(voc_object("dog")), "2": None}, {})
    for stem, name in (("a", "1.jpg"), ("b", "2.jpg"), ("c", "2.jpg"), ("d", "../../secret.jpg")):
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(voc_object("cat"), filename=name))
    sample(tmp_path.parent / "secret.jpg")
    split = labels(root)["trainval"]
    assert {image.key: image.path.name for image in split.images} == {"1": "1.jpg", "b": "2.jpg"}
    assert [key for key, _ in split.failed] == ["a", "c", "d"]


def test_size_mismatch_is_a_warning_naming_both(small: Path) -> None:
    (small / "Annotations" / "1.xml").write_text(voc_xml(voc_object("dog"), size=(30, 40)))
    warning = labels(small)["trainval"].warnings[0]
    assert "30 x 40" in warning.reason
    assert "40 x 30" in warning.reason
    assert "EXIF" in warning.reason


def test_exif_turned_image_has_its_upright_size(small: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(small / "JPEGImages" / "1.jpg", exif=exif)
    split = labels(small)["trainval"]
    assert (split.images[0].height, split.images[0].width) == (40, 30)
    assert "the annotation says 40 x 30" in split.warnings[0].reason


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1", "2"], ["1", "2"]),
        (["\ufeff1  1", "2 -1", ""], ["1", "2"]),
        (["2\r", "1\r"], ["2", "1"]),
        (["1", "2", "1"], ["1", "2"]),
    ],
)
def test_id_lists(small: Path, lines: list[str], expected: list[str]) -> None:
    (small / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(lines), encoding="utf-8", newline="")
    split = labels(small)["trainval"]
    assert [image.key for image in split.images] == expected
    assert len(split.warnings) == len([line for line in lines if line]) - len(expected)


def test_ids_that_leave_the_folder(small: Path) -> None:
    sample(small.parent / "secret.jpg")
    (small.parent / "secret.xml").write_text(voc_xml(voc_object("dog")))
    (small / "ImageSets" / "Main" / "trainval.txt").write_text("../../secret\n")
    with pytest.raises(UserError, match=r"none of the 1 images .* neither an image nor an XML file"):
        labels(small)


def test_splits(small: Path) -> None:
    assert list(labels(small, splits={"test": "test"})) == ["test"]
    with pytest.raises(UserError, match=r"there is no split 'val'\. Available: test, trainval"):
        labels(small, splits={"val": "test"})
    (small / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    (small / "ImageSets" / "Main" / "cat_trainval.txt").unlink()
    assert list(labels(small)) == ["test"]
    (told, left) = voc.read(small, voc.Recipe(), boxes=False).warnings
    assert (
        told
        == "1 files are not understood as lists of this dataset and not used: ImageSets/Main/trainval.txt"
    )
    assert left == "2 images stand in no list and are in no split: 1, 2"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("train", "val", "trainval", "test"), {"trainval": "train", "test": "test"}),
        (("train", "val", "trainval"), {"train": "train", "val": "test"}),
        (("trainval",), {"trainval": "train"}),
        (("mine_train", "mine_val"), {"mine_train": "train", "mine_val": "test"}),
    ],
)
def test_default_splits_do_not_overlap(
    small: Path, present: tuple[str, ...], expected: dict[str, str]
) -> None:
    folder = small / "ImageSets" / "Main"
    shutil.rmtree(folder)
    folder.mkdir()
    for name in present:
        (folder / f"{name}.txt").write_text("1\n2\n")
    assert {name: split.role for name, split in labels(small).items()} == expected


def test_without_image_sets_everything_annotated_is_trainval(small: Path) -> None:
    shutil.rmtree(small / "ImageSets")
    split = labels(small)["trainval"]
    assert [image.key for image in split.images] == ["1", "2", "3"]


def root(source: Path, year: str | None = None) -> Path | None:
    found = find_voc(source, year=year)
    return found.root if found else None


def test_finding_the_folder(small: Path, tmp_path: Path) -> None:
    assert root(tmp_path) == small
    devkit = tmp_path / "VOCdevkit"
    devkit.mkdir()
    small.rename(devkit / "VOC2007")
    assert root(tmp_path) == devkit / "VOC2007"
    shutil.copytree(devkit / "VOC2007", devkit / "VOC2012")
    with pytest.raises(
        UserError,
        match=r"several VOC datasets here: .*Choose one: weaksam data \S+VOC2007 or weaksam data \S+VOC2012",
    ):
        root(devkit)
    assert root(devkit, year="2012") == devkit / "VOC2012"
    with pytest.raises(UserError, match=r"with the year 2010.*Found: VOC2007, VOC2012"):
        root(devkit, year="2010")
    with pytest.raises(UserError, match="with the year 2012"):
        root(devkit / "VOC2007", year="2012")
    assert root(tmp_path / "absent") is None
    with pytest.raises(UserError, match="no VOC dataset here"):
        labels(tmp_path / "absent")


@pytest.mark.parametrize(
    ("box", "failure", "warning"),
    [
        ((1, 1, 40, 30), None, None),
        ((1.5, 2.25, 10.75, 10), None, None),
        ((5, 5, 5, 5), None, None),
        ((0, 0, 41, 31), None, None),
        ((-10, 1, 60, 30), None, "stands out"),
        (("NaN", 1, 5, 5), "not finite", None),
        ((1, 1, "inf", 5), "not finite", None),
        (("one", 1, 5, 5), "no number", None),
        ((10, 1, 5, 5), "no extent", None),
        ((10, 6, 12, 5), "no extent", None),
        ((100, 1, 120, 5), "outside the image", None),
        (None, "no <bndbox>", None),
    ],
)
def test_boxes(small: Path, box: tuple[object, ...] | None, failure: str | None, warning: str | None) -> None:
    (small / "Annotations" / "1.xml").write_text(voc_xml(voc_object("cat", box=box), voc_object("dog")))
    truth = read_truth(voc, small, "trainval")
    assert len(truth.images[0].objects) == (1 if failure else 2)
    if failure is None and box is not None:
        left, top, right, bottom = (float(str(value)) for value in box)
        assert truth.images[0].objects.boxes[0].tolist() == [left - 1, top - 1, right, bottom]
    reasons = [item.reason for item in truth.failed]
    assert [failure in reason and "object 1 (cat)" in reason for reason in reasons if failure] == [
        True
    ] * bool(failure)
    assert len(reasons) == bool(failure)
    assert [warning in item.reason for item in truth.warnings if warning] == [True] * bool(warning)


def test_masks_count_the_objects_of_the_file(small: Path) -> None:
    (small / "SegmentationObject").mkdir()
    values = np.zeros((30, 40), dtype=np.uint8)
    values[0:10, 0:5] = 1
    values[5:9, 6:11] = 3
    values[12] = 255
    Image.fromarray(values).save(small / "SegmentationObject" / "1.png")
    truth = read_truth(voc, small, "trainval", masks=True)
    first = truth.images[0]
    assert first.masks is not None
    assert first.masks[1] is None
    present = [mask for mask in first.masks if mask is not None]
    assert np.array_equal(mask_codec.decode(present, 30, 40)[1], values == 3)
    assert truth.images[1].masks == (None,)
    assert [(item.key, item.reason) for item in truth.failed] == [
        ("1", "object 2 (cat): SegmentationObject/1.png has no pixel of it"),
    ]
    assert ("", "2 objects of 2 images have no mask: 1, 2") in [*truth.warnings]


def test_real_photographs(voc07_mini: Path) -> None:
    splits = read_labelled(voc, voc07_mini)
    assert [(split.name, len(split.images), split.failed) for split in splits] == [
        ("trainval", 600, ()),
        ("test", 300, ()),
    ]
    counts = {name: sum(name in (image.labels or ()) for image in splits[0].images) for name in VOC_CLASSES}
    assert (counts["aeroplane"], counts["bus"], counts["person"]) == (37, 36, 37)
    truth = read_truth(voc, voc07_mini, "test")
    assert sum(len(image.objects) for image in truth.images) == 800
    assert sum(int(image.objects.difficult.sum()) for image in truth.images) == 205


def test_fractions_of_the_sides_are_no_pixels(small: Path) -> None:
    for number in "12":
        (small / "Annotations" / f"{number}.xml").write_text(voc_xml(voc_object("cat", (0.25, 0.5, 0.75, 1))))
    truth = read_truth(voc, small, "trainval")
    assert [image.objects.boxes.tolist() for image in truth.images] == [[[10, 15, 30, 30]]] * 2


def test_masks_beside_the_annotations_are_no_images(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "annotations/trimaps/a.png"):
        sample(tmp_path / name)
    (tmp_path / "annotations" / "xmls").mkdir()
    (tmp_path / "annotations" / "xmls" / "a.xml").write_text(voc_xml(voc_object("cat", (1, 2, 11, 12))))
    found = labels(tmp_path)
    assert [image.path.name for split in found.values() for image in split.images] == ["a.jpg"]
