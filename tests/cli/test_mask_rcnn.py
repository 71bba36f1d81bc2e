"""Instance segmenters as a user makes them: masks of the pseudo boxes, a model, its masks, new images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pycocotools import mask as coco_mask

from tests.tiny import done_here, run_here, run_stage
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.retrain.choice import read_choice

SEGMENTER = ("--recipe", "mask-rcnn-lite0-fpn", "--variant", "masks")


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run whose variant `masks` has a trained segmenter."""
    folder = tmp_path_factory.mktemp("masks")
    shutil.copytree(finished / "runs", folder / "runs", copy_function=shutil.copy2)
    shutil.copytree(finished / "voc", folder / "voc", copy_function=shutil.copy2)
    run = ("--run-dir", str(folder / "runs/tiny"), "--dataset", "tiny")
    refused = run_here("retrain", *run, "--workers", "1", *SEGMENTER)
    assert refused.exit_code == 2
    assert "9 of 9 images have pseudo boxes without masks" in refused.output
    assert "weaksam pgt --masks" in refused.output
    run_stage(folder, "pgt", "--masks", "--variant", "masks")
    run_stage(folder, "retrain", *SEGMENTER)
    return folder


def test_detections_have_masks_and_the_judge_compares_them(place: Path) -> None:
    run = RunDirectory(place / "runs/tiny", {"retrain": "masks"})
    for split in ("trainval", "test"):
        entries = json.loads(run.output("retrain", split).read_text())
        assert entries
        for entry in entries:
            assert entry["segmentation"]["size"] == [48, 64]
            left, top, width, height = entry["bbox"]
            x, y, w, h = coco_mask.toBbox(entry["segmentation"])
            assert w == 0 or (x >= left - 1 and y >= top - 1)
            assert w == 0 or (x + w <= left + width + 1 and y + h <= top + height + 1)
    choice = read_choice(run)
    assert choice is not None and (choice.split, choice.use) == ("test", "retrain")


def test_the_file_of_a_segmenter_tells_that_it_draws_masks(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    model = "runs/tiny/retrain@masks/model.safetensors"
    image = "voc/JPEGImages/000010.jpg"
    done_here("predict", image, "-o", "new.json", "--model", model, "--workers", "1", "--min-score", "0")
    entries = json.loads(Path("new.results.json").read_text())
    assert entries and all(entry["segmentation"]["size"] == [48, 64] for entry in entries)
