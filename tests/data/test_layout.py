"""Which layout a folder has, the value types, and that labels never import ground truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.helpers import coco_content, make_coco, make_voc, sample, voc_object, voc_xml
from weaksam_cli.data.dataset import ReadRecipe, likely_folders, role_of, similar_spellings, split_word
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.errors import UserError


def detect_layout(source: Path) -> str:
    return choose_layout(str(source), None)


def test_detect_layout(tmp_path: Path) -> None:
    voc = make_voc(tmp_path / "v" / "VOC2007", {"1": voc_xml(voc_object("dog"))}, {"trainval": ["1"]})
    coco = make_coco(tmp_path / "c", coco_content())
    sample(tmp_path / "f" / "cat" / "1.jpg")
    table = tmp_path / "t" / "x.csv"
    table.parent.mkdir()
    table.write_text("image,label\n")
    assert detect_layout(voc) == detect_layout(voc.parent) == "voc"
    assert choose_layout("demo", None) == "demo"
    assert choose_layout("anywhere", "coco") == "coco"
    assert detect_layout(coco) == detect_layout(coco / "annotations" / "instances_train2017.json") == "coco"
    assert detect_layout(tmp_path / "f") == "folder"
    assert detect_layout(table) == "table"


def test_unknown_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    sample(tmp_path / "1.jpg")
    with pytest.raises(UserError, match=r"instances_.*labels\.csv.*JPEGImages.*--layout"):
        detect_layout(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        detect_layout(tmp_path / "absent")


def test_label_readers_do_not_import_ground_truth() -> None:
    code = (
        "import sys\n"
        "from weaksam_cli.data import coco, cvat, datumaro, demo, folder, labelme, label_studio\n"
        "from weaksam_cli.data import reading, table, via, voc, yolo\n"
        "assert not [name for name in sys.modules if 'ground_truth' in name]\n"
        "assert not {'torch', 'cv2', 'pycocotools', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"),
        ("trainval", "train"),
        ("val", "test"),
        ("minival", "test"),
        ("Test2007", "test"),
        ("x", "train"),
    ],
)
def test_roles(name: str, role: str) -> None:
    assert role_of(name) == role


def test_similar_spellings() -> None:
    assert len(similar_spellings(["tvmonitor", "tv monitor", "TV-Monitor", "car", "🦄", "🐶"])) == 1
    assert len(similar_spellings(["caf\u00e9", "cafe\u0301", "cafe"])) == 1


@pytest.mark.parametrize("classes", [("cat", "cat"), ("cat", "")])
def test_a_class_list_names_each_class_once(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="distinct and not empty"):
        ReadRecipe(classes=classes)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train_Images", "train"),
        ("val2017", "val"),
        ("annotations-test", "test"),
        ("training set", "train"),
        ("strain", ""),
        ("traintest", ""),
        ("train_val", "trainval"),
        ("train_test", ""),
        ("", ""),
    ],
)
def test_the_split_in_a_name(name: str, split: str) -> None:
    assert split_word(name) == split


@pytest.mark.parametrize(
    ("folders", "split", "expected"),
    [
        (["PNGimages"], "", ["PNGimages", ""]),
        (["images/train", "images/val", "annotations"], "val", ["images/val", "images", ""]),
        (["train_images", "test_images", "annotations"], "test", ["test_images", ""]),
        (["train/images", "valid/images"], "valid", ["valid/images", "valid", ""]),
        (["images/train2017", "images/val2017"], "train", ["images/train2017", "images", ""]),
        (["train_images"], "mine", ["train_images", ""]),
        (["__MACOSX/images", ".images"], "", [""]),
    ],
)
def test_likely_folders(tmp_path: Path, folders: list[str], split: str, expected: list[str]) -> None:
    root = tmp_path / "ds"
    for name in folders:
        (root / name).mkdir(parents=True)
    found = likely_folders(root / "annotations", None, split)
    below = [path.relative_to(root).as_posix() for path in found if path != root / "annotations"]
    assert below == [name or "." for name in expected]
