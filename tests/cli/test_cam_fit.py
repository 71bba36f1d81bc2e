"""`weaksam cam --fit` as a user types it, on tiny images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.tiny import CLASSES, weaksam, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.cli.app import app

FAST = (
    "fit.epochs=1",
    "fit.batch_size=4",
    "fit.crop=32",
    "fit.network={width: 64, depth: 2, patch: 16}",
    "scales=[1.0]",
    "cross_layers=[1]",
)
SETS = [item for setting in FAST for item in ("--set", setting)]
WEAKTR = ("--recipe", "weaktr", *SETS, "--set", "fit.reduction=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the labels of a tiny dataset of six training images."""
    made = tmp_path_factory.mktemp("fit")
    write_voc(made / "voc", trainval=6, test=2)
    result = weaksam("data", made / "voc", "--dataset", "tiny", folder=made)
    assert result.returncode == 0, result.stderr
    return made


def cam(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[int, str]:
    """Exit code and all that is printed of `weaksam cam`, in this process: torch takes seconds to import."""
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["cam", "--dataset", "tiny", "--device", "cpu", "--workers", "1", *more])
    return result.exit_code, result.output


def test_it_trains_then_makes_the_maps_of_every_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*WEAKTR, "--fit", "--set", "fit.initial=null"]
    code, text = cam(folder, monkeypatch, *command)
    assert code == 0, text
    assert "warning: the training starts from random weights" in text
    assert "kept the network of epoch 1 of 1: training mAP" in text
    run = folder / "runs" / "tiny" / "cam"
    receipt = json.loads((run / "model.pth.receipt.json").read_text())
    assert receipt["images"] == 6
    assert receipt["identity"]["split"] == "trainval"
    assert set(receipt["identity"]["inputs"]) == {"data"}
    assert set(receipt["identity"]["recipe"]) == {
        "difficult",
        "fusion",
        "pool",
        "attention_type",
        "heads",
        "fit",
    }
    model = torch.load(run / "model.pth", weights_only=True)
    assert model["class_names"] == list(CLASSES)
    assert model["model"]["cls_token"].shape == (1, 3, 64)
    for split, images in (("trainval", 6), ("test", 2)):
        with open_artifact(run / f"{split}.h5") as artifact:
            assert len(artifact.image_ids) == images
            assert set(artifact.column("kind")) == {0, 1, 2}
        inputs = json.loads((run / f"{split}.h5.receipt.json").read_text())["identity"]["inputs"]
        assert set(inputs) == {"data", "cam-model"}
    code, text = cam(folder, monkeypatch, *command)
    assert (code, text.count("fresh, nothing to do")) == (0, 4), text  # model and maps, for each split

    shown = CliRunner().invoke(app, ["inspect", str(run / "model.pth")])
    assert shown.exit_code == 0, shown.output
    assert "recipe weaktr:" in shown.output
    assert "1x3x64" in next(line for line in shown.output.splitlines() if line.startswith("cls_token"))


def test_maps_are_drawn_over_the_image(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny = ("--recipe", "mctformer-v2", "--fit", *SETS, "--set", "fit.initial=null", "--split", "trainval")
    code, text = cam(folder, monkeypatch, *tiny, "--variant", "drawn")
    assert code == 0, text
    maps = "runs/tiny/cam@drawn/trainval.h5"
    shown = CliRunner().invoke(app, ["inspect", maps, "--image", "000001"])
    assert "--image 000001 --draw 000001.png" in shown.output
    shown = CliRunner().invoke(app, ["inspect", maps, "--image", "000001", "--draw", str(tmp_path / "a.png")])
    assert shown.exit_code == 0, shown.output
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width > 2 * drawn.height  # coarse, fine and cross side by side


def test_another_setting_of_the_training_asks_before_it_replaces_the_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "work")
    random = ("--recipe", "mctformer-v2", "--fit", *SETS, "--set", "fit.initial=null", "--split", "test")
    code, text = cam(tmp_path / "work", monkeypatch, *random, "--variant", "mct")
    assert code == 0, text
    code, text = cam(
        tmp_path / "work", monkeypatch, *random, "--variant", "mct", "--set", "fit.drop_path=0.3"
    )
    assert code == 2
    assert "recipe fit.drop_path: 0.1 -> 0.3" in text
    assert "--overwrite" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--recipe", "lite0"), "has no `fit`"),
        (("--recipe", "clip-es"), "has no `fit`"),
        (("--recipe", "nothing"), "cam has no recipe 'nothing'"),
        (("--recipe", "weaktr", "--set", "weights=a.pth"), "weights are given with --set"),
        (("--recipe", "weaktr"), "fit.initial=null starts from random weights"),
        ((*WEAKTR, "--set", "fit.initial=null", "--set", "heads=5"), "cannot be shared by 5"),
        (("--recipe", "weaktr", *SETS, "--set", "fit.initial=null"), "leaves nothing of 2 gates"),
    ],
)
def test_what_cannot_be_trained_says_why(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("WEAKSAM_WEIGHTS", raising=False)
    code, text = cam(folder, monkeypatch, "--fit", "--variant", "bad", *options)
    assert code == 2, text
    assert said in text


def test_the_tiny_preset_trains_behind_frozen_features(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("--set", "fit.epochs=1", "--set", "fit.crop=32", "--split", "trainval", "--variant", "tiny")
    code, text = cam(folder, monkeypatch, "--recipe", "vit-tiny", *sets)
    assert code == 0, text
    assert "behind EfficientNet-Lite0's ImageNet weights, which stay as they are" in text
    with open_artifact(folder / "runs" / "tiny" / "cam@tiny" / "trainval.h5") as artifact:
        assert set(artifact.column("kind").tolist()) == {0, 1, 2}
        assert set(artifact.column("scale").tolist()) == {1.0, 1.5}
    code, text = cam(folder, monkeypatch, "--recipe", "vit-tiny", *sets)
    assert text.count("fresh, nothing to do") == 2


def test_without_any_label_there_is_nothing_to_learn_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "work")
    path = tmp_path / "labels.json"
    values = json.loads((folder / "runs" / "tiny" / "labels" / "trainval.json").read_text())
    for image in values["images"]:
        image["labels"] = None
    path.write_text(json.dumps(values))
    given = ("--split", "trainval", "--input", f"data={path}", "--variant", "few")
    code, text = cam(tmp_path / "work", monkeypatch, "--recipe", "vit-tiny", *SETS, *given)
    assert code == 2, text
    assert "nothing to learn from" in text
    values["images"][0]["labels"] = [CLASSES[0]]
    path.write_text(json.dumps(values))
    code, text = cam(tmp_path / "work", monkeypatch, "--recipe", "vit-tiny", *SETS, *given)
    assert code == 0, text
    assert "5 of 6 training images have no known labels and are left out" in text
