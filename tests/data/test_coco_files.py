"""Which files of a folder are COCO's, of which splits, and where their images lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import read_labelled, sample
from weaksam_cli.data import coco
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.errors import UserError

Files = Mapping[str, Sequence[str] | Any]
"""A json file -> the names of the images in it; a folder -> the names of the pictures that lie there."""
TWO = ("0.jpg", "1.jpg")


def content(names: Sequence[str]) -> dict[str, Any]:
    """The first image shows a cat, the second a dog."""
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": number, "category_id": 1 + number % 2} for number in range(len(names))],
    }


def make(root: Path, files: Files) -> Path:
    """Pictures have a width of their own, so that no two are the same."""
    width = 8
    for place, names in files.items():
        path = root / place
        if path.suffix.casefold() == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            text = names if isinstance(names, str) else json.dumps(content(names))
            path.write_text(text, encoding="utf-8")
            continue
        for name in names:
            width += 1
            sample(path / name, width, 8)
    return root


def found(source: Path, root: Path, images: Path | None = None) -> dict[str, tuple[str, list[str]]]:
    """Split -> role and files."""
    assert choose_layout(str(source), None) == "coco"
    splits = read_labelled(coco, source, images)
    for split in splits:
        assert split.class_names == ("cat", "dog")
        assert [image.labels for image in split.images] == [("cat",), ("dog",)][: len(split.images)]
        assert not split.failed
    return {
        split.name: (split.role, [image.path.relative_to(root).as_posix() for image in split.images])
        for split in splits
    }


def both(folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in TWO]


ROBOFLOW = {
    f"{name}/{file}": TWO for name in ("train", "valid", "test") for file in ("", "_annotations.coco.json")
}
OTHER_KINDS = {
    f"annotations/{kind}_{split}2017.json": TWO
    for kind in ("instances", "person_keypoints", "captions", "stuff", "panoptic")
    for split in ("train", "val")
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ROBOFLOW,
            {"train": "train", "test": "test", "valid": "valid"},
        ),
        ({f"My-Project-1/{name}": value for name, value in ROBOFLOW.items()}, {
            "train": "My-Project-1/train", "test": "My-Project-1/test", "valid": "My-Project-1/valid",
        }),
        (
            {**ROBOFLOW, "train/old.json": TWO, "train/classes.json": "{}", "info.json": "{}"},
            {"train": "train", "test": "test", "valid": "valid"},
        ),
        (
            {"train2017": TWO, "val2017": TWO, **OTHER_KINDS},
            {"train2017": "train2017", "val2017": "val2017"},
        ),
        (
            {"a/b/train2017": TWO, "a/b/annotations/instances_train2017.json": TWO},
            {"train2017": "a/b/train2017"},
        ),
        (
            {"train": TWO, "val": TWO, "annotations/my_train.json": TWO, "annotations/my_val.json": TWO},
            {"my_train": "train", "my_val": "val"},
        ),
        (
            {"images/train": TWO, "images/val": TWO, "labels/train.json": TWO, "labels/val.json": TWO},
            {"train": "images/train", "val": "images/val"},
        ),
        (
            {"train/images": TWO, "val/images": TWO, "train/annotations/a.json": TWO, "val/annotations/a.json": TWO},
            {"train": "train/images", "val": "val/images"},
        ),
        (
            {"images/train": TWO, "images/val": TWO, "annotations/train/x.json": TWO, "annotations/val/x.json": TWO},
            {"train": "images/train", "val": "images/val"},
        ),
        (
            {"train/data": TWO, "train/labels.json": TWO, "validation/data": TWO, "validation/labels.json": TWO},
            {"train": "train/data", "validation": "validation/data"},
        ),
        (
            {"train_images": TWO, "train_annotations/coco.json": TWO, "val_images": TWO, "val_annotations/coco.json": TWO},
            {"train_annotations": "train_images", "val_annotations": "val_images"},
        ),
        (
            {"images/default": TWO, "annotations/instances_default.json": TWO},
            {"default": "images/default"},
        ),
        ({"PNGImages": TWO, "ANNOTATIONS.JSON": TWO}, {"ANNOTATIONS": "PNGImages"}),
        ({"images": TWO, "result.json": TWO}, {"result": "images"}),
        ({"pictures": TWO, "coco/instances.json": TWO}, {"instances": "pictures"}),
        (
            {"custom_train": TWO, "custom_val": TWO, "labels_train.json": TWO, "labels_val.json": TWO},
            {"labels_train": "custom_train", "labels_val": "custom_val"},
        ),
        (
            {f"{part}/{name}": TWO for name in ("train1", "train2") for part in ("images",)}
            | {f"annotations/instances_{name}.json": TWO for name in ("train1", "train2")},
            {"train1": "images/train1", "train2": "images/train2"},
        ),
        (
            {"train2014": TWO, "train2017": TWO, "instances_train2014.json": TWO, "instances_train2017.json": TWO},
            {"train2014": "train2014", "train2017": "train2017"},
        ),
    ],
)  # fmt: skip
def test_splits_and_the_folders_of_their_images(
    tmp_path: Path, files: Files, expected: Mapping[str, str]
) -> None:
    root = make(tmp_path, files)
    roles = {name: "test" if "val" in name or "test" in name else "train" for name in expected}
    assert found(root, root) == {name: (roles[name], both(folder)) for name, folder in expected.items()}


@pytest.mark.parametrize("images", ["ds/train_images", "ds/val_images", "ds"])
def test_a_folder_named_for_one_split_is_not_that_of_another(tmp_path: Path, images: str) -> None:
    files = {f"ds/{name}_images": TWO for name in ("train", "val")}
    files |= {f"ds/annotations/{name}.json": TWO for name in ("train", "val")}
    root = make(tmp_path, files)
    assert found(root / "ds", root, root / images) == {
        "train": ("train", both("ds/train_images")),
        "val": ("test", both("ds/val_images")),
    }


@pytest.mark.parametrize("source", ["valid", "valid/_annotations.coco.json"])
def test_a_split_folder_alone_has_its_name_and_role(tmp_path: Path, source: str) -> None:
    root = make(tmp_path, ROBOFLOW)
    assert found(root / source, root) == {"valid": ("test", both("valid"))}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"annotations/a.json": TWO, "annotations/b.json": TWO}, r"files are meant.*: a\.json, b\.json"),
        ({"train/a.json": TWO, "train/b.json": TWO, "val/a.json": TWO}, r"train/a\.json, train/b\.json"),
        (
            {"instances_train.json": TWO, "instances-train.json": TWO},
            "instances-train.json, instances_train.json",
        ),
        ({"one/result.json": TWO, "two/result.json": TWO}, "several folders hold instances files: one, two"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path: Path, files: Files, message: str) -> None:
    root = make(tmp_path, {**files, "images": TWO, "train": TWO})
    assert choose_layout(str(root), None) == "coco"
    with pytest.raises(UserError, match=message):
        read_labelled(coco, root)


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    root = make(tmp_path, {"train2017": TWO, "val2017": TWO, **OTHER_KINDS})
    told = coco.read(root, coco.Recipe(), boxes=False).warnings
    assert told[0].startswith(
        "8 json files in annotations are not read: captions_train2017.json, captions_val2017"
    )
    root = make(tmp_path / "more", {**ROBOFLOW, "testing": TWO, "old.json": TWO})
    assert coco.read(root, coco.Recipe(), boxes=False).warnings == (
        "no instances file is in testing, whose images are not read",
        "1 json files in more are not read: old.json",
    )


def test_no_other_dataset_is_looked_into(tmp_path: Path) -> None:
    root = make(tmp_path, {"holiday_images": TWO, "mine/x.json": TWO, "images_2": TWO, "pics": TWO})
    with pytest.raises(UserError, match=r"looked for 0\.jpg in"):
        read_labelled(coco, root / "mine" / "x.json")


def test_images_of_another_split_are_not_taken(tmp_path: Path) -> None:
    root = make(tmp_path, {"train": TWO, "train.json": TWO, "val.json": TWO})
    with pytest.raises(UserError, match=r"val\.json: the images are not found"):
        read_labelled(coco, root)
