"""`weaksam data`: names that leave the run are refused, and what `source.json` says comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import coco_content, make_coco, make_voc, read_labelled, sample, voc_object, voc_xml
from tests.tiny import weaksam
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.data import coco, folder, table, voc
from weaksam_cli.data.source import SOURCE_FILE, Source, SplitSource, read_source, write_source
from weaksam_cli.errors import UserError

NAME = "../../x"


def test_a_split_name_in_a_csv_writes_nothing_outside_the_run(tmp_path: Path) -> None:
    sample(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels.csv").write_text(f"image,label,split\na.jpg,cat,{NAME}\n")
    before = sorted(tmp_path.rglob("*"))
    result = weaksam("data", "labels.csv", "--dataset", "tiny", folder=tmp_path)
    assert result.returncode == 2
    assert f"labels.csv, line 2: '{NAME}' cannot be the name of a split" in result.stderr
    assert sorted(path for path in tmp_path.rglob("*") if "runs" not in path.parts) == before
    assert not list(tmp_path.rglob("*.json*"))


def a_table(root: Path) -> Path:
    sample(root / "a.jpg")
    (root / "labels.csv").write_text("image,label\na.jpg,cat\n")
    return root / "labels.csv"


def class_folders(root: Path) -> Path:
    sample(root / "cat" / "a.jpg")
    return root


def a_coco(root: Path) -> Path:
    return make_coco(root, coco_content())


def a_voc(root: Path) -> Path:
    return make_voc(root, {"1": voc_xml(voc_object("dog"))}, {"a b": ["1"]})


@pytest.mark.parametrize(
    ("layout", "make"), [(table, a_table), (folder, class_folders), (coco, a_coco), (voc, a_voc)]
)
def test_splits_of_a_recipe_are_plain_words(tmp_path: Path, layout: Any, make: Any) -> None:
    with pytest.raises(UserError, match=rf"splits: '{NAME}' cannot be the name of a split"):
        read_labelled(layout, make(tmp_path), splits={NAME: "test"})


def test_names_of_lists_and_files_are_plain_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a b' cannot be the name of a split"):
        read_labelled(voc, a_voc(tmp_path / "voc"))
    make_coco(tmp_path / "coco", coco_content(), "annotations/instances_a b.json")
    with pytest.raises(UserError, match="'a b' cannot be the name of a split"):
        read_labelled(coco, tmp_path / "coco")


def test_split_names_in_source_json_are_plain_words(tmp_path: Path) -> None:
    part = SplitSource(role="train", layout="voc", path=".", image_root=".", name="x")
    write_source(FileOps(), tmp_path, Source(splits={NAME: part}))
    with pytest.raises(UserError, match=r"source\.json: .* cannot be the name of a split"):
        read_source(tmp_path)


def test_source_json_of_version_1_still_reads(tmp_path: Path) -> None:
    make_coco(tmp_path / "c", coco_content(), "instances_val.json")
    old = {
        "layout": "coco",
        "path": str(tmp_path / "c" / "instances_val.json"),
        "image_root": str(tmp_path),
        "splits": {"val": "test"},
        "options": {
            "splits": None,
            "difficult": "exclude",
            "class_names": ["zebra", "traffic light"],
            "year": None,
            "task": "Main",
            "images_root": str(tmp_path / "c" / "images"),
            "subset": None,
            "max_pixels": 100,
        },
    }
    (tmp_path / SOURCE_FILE).parent.mkdir()
    (tmp_path / SOURCE_FILE).write_text(json.dumps(old))
    part = read_source(tmp_path).splits["val"]
    assert (part.images, part.role, part.name) == (str(tmp_path / "c" / "images"), "test", "val")
    assert part.recipe["classes"] == ["zebra", "traffic light"]


_SPLIT = {"role": "train", "layout": "voc", "path": "p", "image_root": "p", "name": "train"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"\xff\xfe{\0", "is UTF-16"),
        (b"[1]", "got a list"),
        (b'{"splits": {"train": 1}}', "splits.train: expected"),
        (json.dumps({"splits": {"train": {**_SPLIT, "images": 0.1}}}), "splits.train.images: expected"),
        (json.dumps({"splits": {"train": {**_SPLIT, "path": "a\0b"}}}), "splits.train.path: String should"),
        (json.dumps({"splits": {"train": {**_SPLIT, "role": "both"}}}), "role: expected 'train' or 'test'"),
        (json.dumps({"layout": "voc", "splits": [1]}), "source.json: splits: expected"),
    ],
)
def test_hostile_source_json_is_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    path = tmp_path / SOURCE_FILE
    path.parent.mkdir()
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError) as caught:
        read_source(tmp_path)
    assert message in caught.value.one_line()
    assert "weaksam data SOURCE" in caught.value.one_line() or "UTF-16" in message or "JSON" in message
