"""Whose classes get pseudo boxes: the published mixture of labels with and without difficult objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from tests.data.helpers import make_voc, voc_object, voc_xml
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, Mode
from weaksam_cli.data.stage import read_dataset
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.pgt import adaptive


@pytest.mark.parametrize(("difficult", "expected"), [(None, [12]), ("exclude", [12]), ("include", [8, 12])])
def test_pseudo_boxes_of_difficult_objects(tmp_path: Path, difficult: Any, expected: list[int]) -> None:
    xml = voc_xml(voc_object("cat", difficult="1"), voc_object("dog"))
    voc = make_voc(tmp_path / "voc", {"1": xml}, {"trainval": ["1"]})
    context = build_context(CommonOptions(dataset="d", run_dir=tmp_path / "run"), "pgt", Console(Mode.QUIET))
    read_dataset(load_recipe("data", "voc"), str(voc), None, context, None)
    found = [
        {"image_id": 1, "category_id": index, "bbox": [1, 1, 9, 9], "score": 0.5} for index in (8, 12, 15)
    ]
    detections = context.run.input("wsod", "trainval")
    detections.parent.mkdir(parents=True)
    detections.write_text(json.dumps(found))
    (step,) = adaptive.steps(adaptive.Recipe(difficult=difficult), context, "trainval")
    context.ops.make_directory(step.path.parent)
    step.run(Job(context, step.path, cast(Any, None)))
    content = json.loads(step.path.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    kept = [names[item["category_id"]] for item in content["annotations"]]
    assert kept == [{8: "cat", 12: "dog"}[index] for index in expected]


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("cam", "weaktr", "include"),
        ("cam", "mctformer-v1", "include"),
        ("cam", "mctformer-v2", "include"),
        ("cam", "clip-es", "include"),
        ("wsod", "mist-vgg16", "exclude"),
        ("wsod", "oicr-vgg16", "exclude"),
        ("wsod", "oicr-lite0", None),
        ("pgt", "adaptive", "include"),
    ],
)
def test_recipes_mix_as_the_published_system_does(stage: str, name: str, expected: str | None) -> None:
    assert cast(Any, load_recipe(stage, name).recipe).difficult == expected
