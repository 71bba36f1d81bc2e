"""WeakTr and MCTformer as a user runs them, with tiny checkpoints in the layout of the official files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.models.vit.helpers import random_mctformer, random_weaktr
from tests.tiny import CLASSES, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import cam_schema, read_class_maps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.cli.app import app
from weaksam_cli.models.vit.checkpoint import VitShape

SHAPE = VitShape(n_classes=3, width=16, depth=3, heads=2, hidden=32, patch=8, side=4)
SETTINGS = ("--set", "cross_layers=[1, 2]", "--set", "logit_threshold=1000", "--workers", "1")
"""No class reaches the threshold, so whatever a test split shows, it is not predicted."""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with labels and weights."""
    folder = tmp_path_factory.mktemp("vit")
    write_voc(folder / "voc", trainval=3, test=1)
    (folder / "weights").mkdir()
    state = random_weaktr("v3", shape=SHAPE).state_dict()
    torch.save({"model": state, "epoch": 59, "miou": np.float64(0.7)}, folder / "weights" / "weaktr_voc.pth")
    torch.save(
        {"model": random_mctformer("v1", shape=SHAPE).state_dict()}, folder / "weights" / "mctformer_v1.pth"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        in_process("data", "voc")
    return folder


@pytest.fixture(autouse=True)
def here(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labelled)
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")


def in_process(*arguments: str, code: int = 0) -> str:
    """Run the program without a process of its own, which would load torch again."""
    result = CliRunner().invoke(app, [*arguments, "--dataset", "tiny"])
    assert result.exit_code == code, result.output
    return result.output


def test_weaktr_then_prompt(labelled: Path) -> None:
    in_process("cam", "--recipe", "weaktr", *SETTINGS)
    run = labelled / "runs" / "tiny"
    images = json.loads((run / "labels" / "trainval.json").read_text())["images"]
    with open_artifact(run / "cam" / "trainval.h5", cam_schema(3)) as artifact:
        assert len(set(artifact.column("span").tolist())) > 1
        for image in images:
            maps = read_class_maps(artifact, image["key"])
            assert [CLASSES[index] for index in maps.classes()] == sorted(image["labels"])
            assert [stack.shape for stack in maps.stacks(0)] == [(1, 6, 8), (1, 4, 6), (1, 7, 9)]
            assert [stack.shape for stack in maps.stacks(2)] == [(1, 4, 6, 8), (1, 4, 4, 6), (1, 4, 7, 9)]
            assert maps.image_size == (48, 64)
            assert all(np.ptp(item) > 0 for item in maps.maps)
    with open_artifact(run / "cam" / "test.h5", cam_schema(3)) as artifact:
        # The labels of a test split are known here and are not looked at.
        assert json.loads((run / "labels" / "test.json").read_text())["images"][0]["labels"]
        assert artifact.offsets.tolist() == [0, 0]
        assert artifact.column("class_scores").shape == (1, 3)

    in_process("prompt", "--workers", "1")
    with open_artifact(run / "prompts" / "trainval.h5", POINTS) as artifact:
        for image in images:
            points = read_points(artifact, image["key"])
            assert all(len(found) for found in points.values())
            assert set(points["fine"].class_index.tolist()) == {CLASSES.index(image["labels"][0])}
    with open_artifact(run / "prompts" / "test.h5", POINTS) as artifact:
        assert artifact.offsets.tolist() == [0, 0]

    assert in_process("cam", "--recipe", "weaktr", *SETTINGS).count("fresh, nothing to do") == 2


def test_mctformer_needs_its_weights_and_a_fitting_recipe(labelled: Path) -> None:
    common = ("cam", "--split", "trainval", "--variant", "mct", *SETTINGS, "--set", "heads=2", "--recipe")
    in_process(*common, "mctformer-v1")
    with open_artifact(labelled / "runs" / "tiny" / "cam@mct" / "trainval.h5", cam_schema(3)) as artifact:
        assert set(artifact.column("kind").tolist()) == {0, 1, 2}
    text = in_process(*common, "mctformer-v2", code=2)
    assert "'mctformer_v2.pth' is not in" in text
    assert text.count("\n") == 1


def test_weights_for_other_classes_are_refused_in_one_line(labelled: Path) -> None:
    state = random_weaktr("v1", shape=VitShape(20, 16, 3, 2, 32, 8, 4)).state_dict()
    torch.save({"model": state}, labelled / "weights" / "other.pth")
    given = ("--set", "weights=other.pth", "--split", "trainval", "--variant", "other", *SETTINGS)
    text = in_process("cam", "--recipe", "weaktr", *given, code=2)
    assert "other.pth: the checkpoint has 20 classes and does not know 'blue one'" in text
    assert "the dataset has 3 classes" in text
