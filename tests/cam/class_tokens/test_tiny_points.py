"""`vit-tiny` learns where its classes are from labels that do not say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.shapes import OBJECT, SIDE, write_images
from weaksam_cli.cli.app import app

SETS = ("fit.epochs=10", "fit.crop=160", "fit.criterion_period=10", "fit.batch_size=4", "cross_layers=[]")


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, [*arguments, "--dataset", "shapes"])
    assert result.exit_code == 0, result.output


def test_peaks_lie_in_boxes_that_nobody_showed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all coarse peaks; a network that has learnt nothing was right about a third of them."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "shapes", 24)
    run("data", "shapes")
    changes = [item for setting in SETS for item in ("--set", setting)]
    run("cam", "--recipe", "vit-tiny", "--workers", "1", *changes)
    run("prompt", "--workers", "1")
    run("eval")
    metrics = json.loads((tmp_path / "runs" / "shapes" / "eval" / "trainval.json").read_text())["metrics"]
    values = {item["name"]: item["value"] for item in metrics}
    assert values["peak inside a box: any pixel"] == pytest.approx((OBJECT / SIDE) ** 2, abs=0.005)
    assert values["coarse: best peak inside a box"] > 0.7
