"""`weaksam data`: names that leave the run are refused, and what `source.json` says comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import coco_content, make_coco, make_voc, sample, voc_object, voc_xml
from tests.tiny import weaksam
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.data import coco, folder, voc
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.source import SOURCE_FILE, Source, read_source, write_source
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


def read_csv(root: Path, splits: Any) -> None:
    sample(root / "a.jpg")
    (root / "labels.csv").write_text("image,label\na.jpg,cat\n")
    folder.read(root / "labels.csv", folder.Recipe(splits=splits))


def read_class_folders(root: Path, splits: Any) -> None:
    sample(root / "cat" / "a.jpg")
    folder.read(root, folder.Recipe(splits=splits))


def read_coco(root: Path, splits: Any) -> None:
    coco.read(make_coco(root, coco_content()), coco.Recipe(splits=splits))


def read_voc(root: Path, splits: Any) -> None:
    voc.read(make_voc(root, {"1": voc_xml(voc_object("dog"))}, {"a b": ["1"]}), voc.Recipe(splits=splits))


@pytest.mark.parametrize("reader", [read_csv, read_class_folders, read_coco, read_voc])
def test_splits_of_a_recipe_are_plain_words(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(UserError, match=rf"splits: '{NAME}' cannot be the name of a split"):
        reader(tmp_path, {NAME: "test"})


def test_names_of_lists_and_files_are_plain_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a b' cannot be the name of a split"):
        read_voc(tmp_path / "voc", None)
    make_coco(tmp_path / "coco", coco_content(), "annotations/instances_a b.json")
    with pytest.raises(UserError, match="'a b' cannot be the name of a split"):
        coco.read(tmp_path / "coco", coco.Recipe())


def test_split_names_in_source_json_are_plain_words(tmp_path: Path) -> None:
    write_source(FileOps(), tmp_path, Source(layout="voc", path=".", image_root=".", splits={NAME: "train"}))
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
    source = read_source(tmp_path)
    assert source.images == str(tmp_path / "c" / "images")
    with pytest.raises(UserError, match="limit of 100"):
        read_ground_truth(tmp_path, source, "val")
    roomy = source.model_copy(update={"recipe": {**source.recipe, "max_pixels": 10**6}})
    found = read_ground_truth(tmp_path, roomy, "val")
    assert found is not None
    assert found.class_names == ("zebra", "traffic light")
