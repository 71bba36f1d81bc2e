"""MIST finds objects that nobody showed: a narrow VGG from random weights, on images of two shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.shapes import write_images
from typer.testing import CliRunner

from weaksam_cli.cli.app import app

SETS = (
    "network.weights=random", "network.widths=[16, 32, 32, 32, 32]", "network.hidden=64", "network.frozen_blocks=0",
    "heads.initial_deviation=0.01", "network.train_images.short_sides=[80]", "network.train_images.lighting=0",
    "drop_block=null", "network.test_images.short_sides=[80]", "network.test_images.flip=false",
    "proposals.most=100", "schedule.iterations=130",
    "schedule.batch_size=3", "schedule.learning_rate=0.002", "schedule.warmup_iterations=10", "schedule.milestones=[]",
)  # fmt: skip


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, [*arguments, "--dataset", "shapes"])
    assert result.exit_code == 0, result.output


def test_the_best_box_of_most_images_is_on_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CorLoc of the same network after one step of nothing was 28 %; the box of the whole image is never right."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "shapes", 40)
    run("data", "shapes")
    run("propose", "--recipe", "selective-search", "--workers", "1")
    changes = [item for setting in SETS for item in ("--set", setting)]
    run("wsod", "--recipe", "mist-vgg16", "--workers", "1", "--device", "cpu", *changes)
    run("eval")
    metrics = json.loads((tmp_path / "runs" / "shapes" / "eval" / "trainval.json").read_text())["metrics"]
    values = {(item["stage"], item["name"]): item["value"] for item in metrics}
    assert values["baseline", "CorLoc (mist): whole image"] == 0
    assert values["wsod", "CorLoc (mist)"] > 0.55
