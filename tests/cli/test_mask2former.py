"""Mask2Former as a user has it: trained on masks of the pseudo boxes, judged, evaluated, asked for new images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import done_here, run_here, run_stage
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.retrain.choice import read_choice

pytest.importorskip("transformers")

SMALL = (
    "segmenter.queries=5", "segmenter.channels=32", "segmenter.heads=2", "segmenter.pixel_layers=1",
    "segmenter.decoder_layers=1", "segmenter.points=32", "schedule.epochs=1", "schedule.min_iterations=1",
    "train_images.jitter.side=64", "inference.short_side=64", "inference.score_threshold=0.0",
)  # fmt: skip
MODEL = "runs/tiny/retrain@queries/model.safetensors"


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run whose variant `queries` has a trained Mask2Former."""
    folder = tmp_path_factory.mktemp("queries")
    shutil.copytree(finished / "runs", folder / "runs", copy_function=shutil.copy2)
    shutil.copytree(finished / "voc", folder / "voc", copy_function=shutil.copy2)
    run_stage(folder, "pgt", "--masks", "--variant", "queries")
    sets = [item for setting in SMALL for item in ("--set", setting)]
    run = (
        "--run-dir",
        str(folder / "runs/tiny"),
        "--dataset",
        "tiny",
        "--workers",
        "1",
        "--profile",
        "embedded",
    )
    told: str = done_here("retrain", *run, "--variant", "queries", "--recipe", "mask2former-lite0", *sets)
    assert "handed over: the detector of retrain" in told
    return folder


def test_detections_have_masks_and_are_handed_over(place: Path) -> None:
    run = RunDirectory(place / "runs/tiny", {"retrain": "queries"})
    for split in ("trainval", "test"):
        entries = json.loads(run.output("retrain", split).read_text())
        assert entries and all(entry["segmentation"]["size"] == [48, 64] for entry in entries)
    choice = read_choice(run)
    assert choice is not None and (choice.split, choice.use) == ("test", "retrain")


def test_it_is_evaluated_as_other_segmenters_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shown = done_here("inspect", MODEL)
    assert "mask2former" in shown
    done_here("eval", "--dataset", "tiny", "--variant", "queries", "--split", "test", "--workers", "1")
    figures = json.loads(Path("runs/tiny/eval@queries/test.json").read_text())
    assert "retrain" in json.dumps(figures)


def test_new_images_by_the_file_alone(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(place)
    alone = shutil.copy2(MODEL, tmp_path / "model.safetensors")
    image = "voc/JPEGImages/000010.jpg"
    done_here("predict", image, "-o", "new.json", "--model", str(alone), "--workers", "1", "--min-score", "0")
    entries = json.loads(Path("new.results.json").read_text())
    assert all(entry["segmentation"]["size"] == [48, 64] for entry in entries)
    refused = run_here("export", str(alone), "--format", "torchscript", "-o", "model.pt")
    assert (
        refused.exit_code == 2 and "is a detector of mask2former, whose layers fix the size" in refused.output
    )


@pytest.mark.parametrize("method", ["mask2former", "dino"])
def test_a_run_does_not_begin_without_transformers(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("weaksam_cli.retrain.transformers_parts.find_spec", lambda _: None)
    refused = run_here("all", "--profile", "embedded", "--recipe", f"retrain={method}-lite0", "--dry-run")
    assert refused.exit_code == 2 and "pip install 'weaksam-cli[hf]'" in refused.output
    assert not list(tmp_path.iterdir())
