"""`weaksam data` and `weaksam eval` as a user types them on what annotation tools leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.data.helpers import coco_annotation, make_coco, make_voc, sample, voc_object, voc_xml
from weaksam_cli.cli.app import app

CATEGORIES = [
    {"id": 0, "name": "fruits", "supercategory": "none"},
    {"id": 1, "name": "apple", "supercategory": "fruits"},
    {"id": 2, "name": "pear", "supercategory": "fruits"},
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def done(*arguments: str) -> str:
    """What was printed; stderr too."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def told(*arguments: str, code: int = 2) -> str:
    """The last line on stderr of a command that fails."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return result.stderr.splitlines()[-1]


def labels_of(split: str, dataset: str = "t") -> dict[str, Any]:
    content = json.loads(Path("runs", dataset, "labels", f"{split}.json").read_text())
    return {image["key"]: image["labels"] for image in content["images"]}


def roboflow(split: str, images: int = 2, **more: Any) -> Path:
    """A folder of a split as Roboflow exports it; its images differ from those of other splits."""
    names = [f"{split}{number}_jpg.rf.0a.jpg" for number in range(images)]
    for number, name in enumerate(names):
        sample(Path("ds", split, name), 40 + number, 30 + ("train", "valid", "test").index(split))
    content = {
        "categories": CATEGORIES,
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [coco_annotation(number, number, 1 + number % 2) for number in range(images)],
        **more,
    }
    Path("ds", split, "_annotations.coco.json").write_text(json.dumps(content))
    return Path("ds", split)


def test_the_whole_of_a_roboflow_export() -> None:
    for split in ("train", "valid", "test"):
        roboflow(split)
    text = done("data", "ds", "--dataset", "t")
    assert "class   train (train)  test (test)  valid (test)" in text
    assert "'fruits'" in text, "a parent without annotations is left out, and told"
    source = json.loads(Path("runs/t/labels/source.json").read_text())["splits"]
    assert {name: part["role"] for name, part in source.items()} == {
        "train": "train",
        "test": "test",
        "valid": "test",
    }
    assert labels_of("valid") == {"valid0_jpg.rf.0a.jpg": ["apple"], "valid1_jpg.rf.0a.jpg": ["pear"]}


def test_a_second_split_does_not_replace_the_first() -> None:
    for split in ("train", "valid"):
        roboflow(split)
        text = done("data", f"ds/{split}", "--dataset", "t")
    assert "split train stays, as it was read from" in text
    splits = json.loads(Path("runs/t/labels/source.json").read_text())["splits"]
    assert {name: (part["role"], Path(part["path"]).name) for name, part in splits.items()} == {
        "train": ("train", "train"),
        "valid": ("test", "valid"),
    }
    done("eval", "--dataset", "t", "--split", "valid")
    done("data", "ds/train", "--dataset", "t")
    assert json.loads(Path("runs/t/labels/source.json").read_text())["splits"].keys() == {"train", "valid"}
    done("data", "ds/train", "--dataset", "t", "--overwrite")
    assert json.loads(Path("runs/t/labels/source.json").read_text())["splits"].keys() == {"train"}


def test_splits_of_other_classes_are_not_joined() -> None:
    done("data", str(roboflow("train")), "--dataset", "t")
    more = [*CATEGORIES, {"id": 3, "name": "plum", "supercategory": "fruits"}]
    valid = roboflow("valid", categories=more, annotations=[coco_annotation(0, 0, 3)])
    assert "the splits train and valid have different classes" in told("data", str(valid), "--dataset", "t")


def test_another_dataset_of_the_same_split_is_not_written_over_the_first() -> None:
    done("data", str(roboflow("train")), "--dataset", "t")
    shutil.move("ds", "moved")
    assert "fresh, nothing to do" in done("data", "moved/train", "--dataset", "t")
    other = roboflow("train", images=3)
    assert "the split 'train' of this run was read from" in told("data", str(other), "--dataset", "t")
    done("data", str(other), "--dataset", "t", "--overwrite")
    assert len(labels_of("train")) == 3


def test_a_test_split_is_divided_off_and_evaluated() -> None:
    train = roboflow("train", images=20)
    assert "--split-off test=0.2" in done("data", str(train), "--dataset", "t")
    text = done("data", str(train), "--dataset", "u", "--split-off", "test=0.2")
    assert "class   train (train)  test (test)" in text
    assert [len(labels_of(split, "u")) for split in ("train", "test")] == [16, 4]
    assert sorted(labels_of("test", "u").values()) == [["apple"]] * 2 + [["pear"]] * 2
    done("eval", "--dataset", "u")
    results = json.loads(Path("runs/u/eval/test.json").read_text())
    assert results["ground_truth"]["objects"] == 4
    for value, what in (
        ("test", "expected NAME=SHARE"),
        ("test=2", "less than 1"),
        ("a/b=0.2", "cannot be the name"),
    ):
        assert what in told("data", str(train), "--dataset", "u", "--split-off", value, "--overwrite")


def test_ground_truth_that_is_left_out_is_counted_everywhere() -> None:
    content = {
        "categories": CATEGORIES,
        "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 9, "file_name": "sub/b.jpg"}],
        "annotations": [
            coco_annotation(1, 5, 1, bbox=[30, 20, -20, -10]),
            *(coco_annotation(n, 9, 2) for n in range(2, 9)),
        ],
    }
    make_coco(Path("ds"), content, "annotations/instances_test.json")
    text = done("data", "ds", "--dataset", "t")
    assert "labels/test.json: 1 objects of 1 images are left out" in text
    assert "annotation 1 (apple): the box [30.0, 20.0, 10.0, 10.0] has no extent" in text
    assert "1 objects are left out" in told("data", "ds", "--dataset", "t", "--strict", code=3)
    Path("det.json").write_text(
        json.dumps([{"image_id": 9, "category_id": 2, "bbox": [1, 2, 10, 12], "score": 0.5}])
    )
    given = ("eval", "--dataset", "t", "--input", "retrain=det.json")
    assert "1 objects of 1 images could not be used as ground truth" in done(*given)
    results = json.loads(Path("runs/t/eval/test.json").read_text())
    assert [item["image"] for item in results["ground_truth"]["objects_left_out"]] == ["a.jpg"]
    for path in ("eval/test.json", "labels/test.json"):
        receipt = json.loads(Path(f"runs/t/{path}.receipt.json").read_text())
        assert [item["image"] for item in receipt["left_out"]] == ["a.jpg"]
    assert "are left out" in told(*given, "--strict", code=3)
    events = [json.loads(line) for line in done("data", "ds", "--dataset", "u", "--json").splitlines()]
    assert [event["left_out"] for event in events if "left_out" in event] == [1]


def test_what_the_files_hold_twice_or_not_at_all() -> None:
    folder = make_voc(
        Path("ds"),
        {
            "1": voc_xml(voc_object("dog")),
            "2": voc_xml(voc_object("dog", difficult="1")),
            "3": voc_xml(voc_object("dgo")),
        },
        {"train": ["1", "2", "3"], "val": ["1"]},
    )
    for name in ("stray", "2"):
        sample(folder / "JPEGImages" / f"{name}.jpg", 41)
    sample(folder / "JPEGImages" / "3.jpg", 42)
    text = done("data", "ds", "--dataset", "t")
    for line in (
        "1 images stand in train and in val (same bytes): 1",
        "1 images in the folders of these splits are in none of them: stray.jpg",
        "these classes may be two spellings of one: 'dgo' (1 images) and 'dog' (2)",
        "in 1 images difficult objects or crowds alone show dog, which gives no label; --set difficult=include counts them",
    ):
        assert f"warning: {line}" in text.replace("split train: ", "")
    assert labels_of("train") == {"1": ["dog"], "2": [], "3": ["dgo"]}
    done("data", "ds", "--dataset", "u", "--set", "difficult=include")
    assert labels_of("train", "u")["2"] == ["dog"]


def test_crowds_alone_are_no_training_split() -> None:
    crowd = {"segmentation": {"counts": [1, 1199], "size": [30, 40]}, "iscrowd": 1}
    train = roboflow("train", annotations=[coco_annotation(n, n, 1, **crowd) for n in range(2)])
    assert "--set difficult=include counts them" in told("data", str(train), "--dataset", "t")
    assert "apple" in done("data", str(train), "--dataset", "t", "--set", "difficult=include")


def test_a_later_split_without_labels_leaves_nothing_behind(tmp_path: Path) -> None:
    sample(tmp_path / "pets" / "a.jpg")
    sample(tmp_path / "pets" / "b.jpg")
    (tmp_path / "pets" / "labels.csv").write_text("image,label,split\na.jpg,cat,train\nb.jpg,,trainval\n")
    said = told("data", "pets", "--dataset", "pets")
    assert "split trainval: no image of this training split has a label" in said
    assert not (tmp_path / "runs" / "pets" / "labels" / "train.json").exists()
