"""MIST and OICR on (narrow) VGG16 as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.tiny import write_voc
from typer.testing import CliRunner

from weaksam_cli.cli.app import app

NARROW = (
    "weights=random", "network.widths=[4, 4, 8, 8, 8]", "network.hidden=16", "network.initial_deviation=0.1",
    "train_images.short_sides=[64, 96]", "inference.short_sides=[64, 96]", "proposals.min_side=8",
    "schedule.batch_size=3", "schedule.images_at_once=2", "schedule.learning_rate=0.001",
    "schedule.warmup_iterations=0", "schedule.milestones=[]",
)  # fmt: skip
LENGTH = {"mist-vgg16": "schedule.iterations=3", "oicr-vgg16": "schedule.epochs=1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with labels and proposals of six training and two test images."""
    made = tmp_path_factory.mktemp("vgg")
    write_voc(made / "voc", trainval=6, test=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for command in (("data", "voc"), ("propose", "--recipe", "selective-search", "--workers", "1")):
            result = CliRunner().invoke(app, [*command, "--dataset", "tiny"])
            assert result.exit_code == 0, result.output
    return made


def wsod(recipe: str, *more: str, code: int = 0) -> str:
    sets = [item for setting in (*NARROW, LENGTH[recipe]) for item in ("--set", setting)]
    common = ("--dataset", "tiny", "--device", "cpu", "--workers", "1", "--variant", recipe)
    result = CliRunner().invoke(app, ["wsod", "--recipe", recipe, *sets, *common, *more])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("recipe", list(LENGTH))
def test_it_trains_then_detects_in_every_split(
    folder: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    text = wsod(recipe)
    assert "warning: the training starts from random weights" in text
    run = folder / "runs" / "tiny" / f"wsod@{recipe}"
    receipt = json.loads((run / "model.safetensors.receipt.json").read_text())
    assert receipt["images"] == 6
    assert set(receipt["identity"]["inputs"]) == {"data", "propose"}
    for split, samples in (("trainval", 6), ("test", 2)):
        labels = json.loads((folder / "runs" / "tiny" / "labels" / f"{split}.json").read_text())
        found = json.loads((run / "detections" / f"{split}.json").read_text())
        assert {item["image_id"] for item in found} == {image["id"] for image in labels["images"]}
        assert len(labels["images"]) == samples
        assert all(0 < item["score"] <= 1 and min(item["bbox"][2:]) > 0 for item in found)
        assert all(item["bbox"][0] + item["bbox"][2] <= 64.001 for item in found)
    assert wsod(recipe).count("fresh, nothing to do") == 4

    changed = ("--split", "test", "--overwrite", "--set", "inference.short_sides=[64]")
    text = wsod(recipe, *changed)
    assert "model.safetensors: fresh, nothing to do" in text
    assert "detections/test.json: 2 images" in text


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weaksam_cli.training import loop

    monkeypatch.chdir(folder)
    period = ("--split", "trainval", "--set", "schedule.checkpoint_period=1", "--overwrite")
    wsod("mist-vgg16", *period)
    path = folder / "runs" / "tiny" / "wsod@mist-vgg16" / "model.safetensors"
    whole = path.read_bytes()
    path.unlink()
    path.with_name("model.safetensors.receipt.json").unlink()
    save = loop._save
    steps = []

    def die(training: loop.Training, extras: Any) -> None:
        save(training, extras)
        steps.append(training.iteration)
        if steps == [0, 1]:
            raise SystemExit(9)

    monkeypatch.setattr(loop, "_save", die)
    wsod("mist-vgg16", *period, code=9)
    wsod("mist-vgg16", *period)
    assert steps == [0, 1, 2]
    assert path.read_bytes() == whole


def test_how_often_checkpoints_are_written_changes_no_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    wsod("oicr-vgg16", "--split", "trainval")
    text = wsod("oicr-vgg16", "--split", "trainval", "--set", "schedule.checkpoint_period=7")
    assert text.count("fresh, nothing to do") == 2


def test_files_of_other_images_and_other_classes_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    wsod("oicr-vgg16", "--split", "trainval")
    foreign = "runs/tiny/proposals/trainval.h5"
    text = wsod("oicr-vgg16", "--split", "test", "--input", f"propose={foreign}", "--overwrite", code=2)
    assert "6 of its images are not in" in text
    labels = json.loads((folder / "runs" / "tiny" / "labels" / "test.json").read_text())
    labels["categories"].reverse()
    (tmp_path / "reversed.json").write_text(json.dumps(labels))
    given = ("--input", f"data={tmp_path / 'reversed.json'}", "--overwrite")
    text = wsod("oicr-vgg16", "--split", "test", *given, code=2)
    assert "was trained for the classes ['blue one', 'green one', 'red one'], the images have" in text


def test_oicr_says_that_one_class_teaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "cat" / f"{number}.jpg")
    for command in (("data", "images"), ("propose", "--recipe", "selective-search", "--workers", "1")):
        result = CliRunner().invoke(app, [*command, "--dataset", "tiny"])
        assert result.exit_code == 0, result.output
    text = wsod("oicr-vgg16")
    assert "there is one class: OICR's image-level loss is always 0 then" in text


def test_missing_weights_and_weights_of_another_network_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(folder)
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")
    text = wsod("oicr-vgg16", "--set", "weights=vgg16-none.pth", "--overwrite", code=2)
    assert "vgg16-none.pth" in text
    (folder / "weights").mkdir()
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, folder / "weights" / "other.pth")
    text = wsod("oicr-vgg16", "--set", "weights=other.pth", "--overwrite", code=2)
    assert "other.pth" in text
    assert "features.0.bias" in text
