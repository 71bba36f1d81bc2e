"""DINO as a user trains it: a model, its boxes and the judge, new images, what is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import done_here, run_here
from weaksam_cli.artifacts.reader import open_artifact
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.eval.loss_analysis import LOSSES
from weaksam_cli.retrain.both import both_output
from weaksam_cli.retrain.choice import read_choice

TINY = (
    "schedule.epochs=2", "schedule.min_iterations=null", "schedule.batch_size=2", "schedule.warmup_share=0",
    "transformer.channels=16", "transformer.heads=2", "transformer.feedforward=16", "transformer.queries=20",
    "query_drop.mode=both", "query_drop.tau=70", "query_drop.start_share=0.5",
    "train_images.short_sides=[64]", "train_images.crop=true", "train_images.crop_short_sides=[64]",
    "train_images.crop_sides=[32, 64]", "inference.short_side=64", "inference.augment=true",
    "inference.augment_short_sides=[64]",
)  # fmt: skip
MODEL = "runs/tiny/retrain@dino/model.safetensors"


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run whose variant `dino` has a trained DINO, with test-time augmentation."""
    folder = tmp_path_factory.mktemp("dino")
    shutil.copytree(finished / "runs", folder / "runs", copy_function=shutil.copy2)
    shutil.copytree(finished / "voc", folder / "voc", copy_function=shutil.copy2)
    sets = [item for setting in TINY for item in ("--set", setting)]
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEAKSAM_WEIGHTS", "")
        said = done_here(
            "retrain",
            "--dataset",
            "tiny",
            "--recipe",
            "dino-lite0",
            "--variant",
            "dino",
            "--workers",
            "1",
            *sets,
        )
    assert "query drop (both, tau 70) from iteration 4" in said
    return folder


def test_detections_both_detectors_and_the_judge(place: Path) -> None:
    run = RunDirectory(place / "runs/tiny", {"retrain": "dino"})
    for split in ("trainval", "test"):
        assert json.loads(run.output("retrain", split).read_text())
        assert json.loads(both_output(run, split).read_text())
    choice = read_choice(run)
    assert choice is not None and choice.both is not None
    rows = [json.loads(line) for line in (place / MODEL).with_name("metrics.json").read_text().splitlines()]
    assert rows[-1]["dropped/background"] > 0


def test_new_images_and_evaluation(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    image = "voc/JPEGImages/000010.jpg"
    done_here("predict", image, "-o", "new.json", "--model", MODEL, "--workers", "1", "--min-score", "0")
    assert json.loads(Path("new.results.json").read_text())
    said = done_here("eval", "--dataset", "tiny", "--split", "test", "--workers", "1")
    assert "retrain@dino" in said and "both@dino" in said


def test_whether_dropped_queries_were_wrong(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query is as wrong as the pseudo box that it is matched with."""
    monkeypatch.chdir(place)
    command = (
        "eval",
        "--dataset",
        "tiny",
        "--workers",
        "1",
        "--variant",
        "dino",
        "--recipe",
        "loss-analysis",
    )
    done_here(*command, "--set", f"model={MODEL}", "--set", "regions=12")
    (path,) = (place / "runs/tiny").glob("eval*/losses-trainval.json")
    found = json.loads(path.read_text())
    assert found["tau_reg"] is None
    with open_artifact(path.with_suffix(".h5"), LOSSES) as artifact:
        classes, boxes = artifact.column("class_index").astype(int), artifact.column("pseudo_box").astype(int)
        costs = np.sort(artifact.column("classification")[classes >= 0])
        assert len(classes) == 9 * 12
    assert ((classes >= 0) == (boxes >= 0)).all()
    things = int((classes >= 0).sum())
    pseudo = json.loads((place / "runs/tiny/pgt/trainval.json").read_text())["annotations"]
    assert things == len(pseudo) == found["foreground"]["regions"]
    assert found["tau_cls"] == pytest.approx(costs[::-1][30 * things // 100])
    assert found["dropped"]["things"]["regions"] == int((costs > np.float32(found["tau_cls"])).sum())


def test_torchscript_is_refused_with_a_reason(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    said = run_here("export", MODEL, "--format", "torchscript", "-o", "x.pt")
    assert said.exit_code == 2
    assert "is a detector of dino, whose layers fix the size of an image" in said.output
