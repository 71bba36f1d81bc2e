"""MIST and OICR on (narrow) VGG16 as a user runs them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from tests.artifacts.helpers import context
from tests.tiny import write_voc
from typer.testing import CliRunner

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.hdf5 import batch_bytes
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Proposals, proposals_to_rows
from weaksam_cli.artifacts.schema import concatenate
from weaksam_cli.cli.app import app
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.data.labels import LABELS_FORMAT, LABELS_VERSION, Split
from weaksam_cli.data.unlabelled import list_images, look_at
from weaksam_cli.engine.predictors import ImageRunner
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import ImageError, UserError
from weaksam_cli.predict.chain import NEW_IMAGES
from weaksam_cli.wsod.detector import Answer, Sample
from weaksam_cli.wsod.mist import Mist
from weaksam_cli.wsod.settings import InferenceSettings, ProposalSettings
from weaksam_cli.wsod.vgg16 import DetectionPredictor, DetectionSettings, Vgg16

NARROW = (
    "network.weights=random", "network.widths=[4, 4, 8, 8, 8]", "network.hidden=16", "heads.initial_deviation=0.1",
    "network.train_images.short_sides=[64, 96]", "network.test_images.short_sides=[64, 96]", "proposals.min_side=8",
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

    changed = ("--split", "test", "--overwrite", "--set", "network.test_images.short_sides=[64]")
    text = wsod(recipe, *changed)
    assert "model.safetensors: fresh, nothing to do" in text
    assert "detections/test.json: 2 images" in text


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weaksam_cli.training import loop

    monkeypatch.chdir(folder)
    period = ("--split", "trainval", "--checkpoint-every", "1", "--overwrite")
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
    wsod("mist-vgg16", *period, "--tensorboard", "curves")
    assert list((folder / "curves" / "wsod@mist-vgg16").glob("events.out.*")), (
        "and none of it changes the model"
    )
    assert steps == [0, 1, 2]
    assert path.read_bytes() == whole


def test_how_often_checkpoints_are_written_changes_no_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    wsod("oicr-vgg16", "--split", "trainval")
    text = wsod("oicr-vgg16", "--split", "trainval", "--checkpoint-every", "7")
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
    assert "there is one class: the image-level loss of oicr is always 0 then" in text


def test_missing_weights_and_weights_of_another_network_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")
    text = wsod("oicr-vgg16", "--set", "network.weights=vgg16-none.pth", "--overwrite", code=2)
    assert "vgg16-none.pth" in text
    (folder / "weights").mkdir()
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, folder / "weights" / "other.pth")
    text = wsod("oicr-vgg16", "--set", "network.weights=other.pth", "--overwrite", code=2)
    assert "other.pth" in text
    assert "features.0.bias" in text


HEIGHT, WIDTH = 40, 60
BOXES: dict[str, list[list[float]]] = {
    "a": [
        [0, 0, 30, 30],
        [0, 0, 5, 30],
        [20, 5, 60.5, 39],
    ],  # the second is too small, the third stands out by rounding
    "b": [],
    "c": [[10, 10, 40, 40]],
}
USED = {"a": [[0, 0, 30, 30], [20, 5, 60, 39]], "b": [[0, 0, 60, 40]], "c": [[10, 10, 40, 40]]}


def constant_network(items: list[Sample]) -> list[Answer]:
    """Two classes; the r-th proposal scores 1 / (r + 2) and half of it."""
    boxes = items[0].regions.boxes
    first = 1 / (torch.arange(len(boxes)) + 2.0)
    return [Answer(torch.stack([first, first / 2], dim=1), boxes)]


def write_inputs(folder: Path) -> None:
    """Images, labels and proposals of one split."""
    images = []
    for number, key in enumerate(BOXES):
        file = folder / f"{key}.png"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)).save(file)
        image = {"id": number, "key": key, "file_name": file.name, "sha256": digest.of_file(file)}
        images.append({**image, "height": HEIGHT, "width": WIDTH, "labels": None})
    header = {"format": LABELS_FORMAT, "format_version": LABELS_VERSION, "dataset": "d", "split": "s"}
    document = {
        "info": {**header, "role": "test"},
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "images": images,
        "annotations": [],
        "failed": [],
    }
    (folder / "labels.json").write_text(json.dumps(document))
    rows = [
        (key, proposals_to_rows(Proposals.from_boxes(as_boxes(boxes), "import"), (HEIGHT, WIDTH)))
        for key, boxes in BOXES.items()
    ]
    data = batch_bytes(PROPOSALS, concatenate(PROPOSALS, rows))
    (folder / "proposals.h5").write_bytes(data)
    with h5py.File(folder / "proposals.h5", "a") as file:
        file["source_names"] = list(SOURCES)


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DetectionPredictor:
    write_inputs(tmp_path)
    monkeypatch.setattr("weaksam_cli.wsod.detector.load_detector", lambda *_: constant_network)
    settings = DetectionSettings(
        method=Mist(),
        network=Vgg16.model_validate(
            {"name": "vgg16", "widths": (4,) * 5, "hidden": 8, "test_images": {"short_sides": (40, 80)}}
        ),
        proposals=ProposalSettings(min_side=20),
        inference=InferenceSettings(),
    )
    split, model = Split(tmp_path / "labels.json", tmp_path), tmp_path / "model.safetensors"
    return DetectionPredictor(settings, split, tmp_path / "proposals.h5", model)


def test_it_detects_among_the_usable_proposals(predictor: DetectionPredictor) -> None:
    opened = pickle.loads(pickle.dumps(predictor)).open()
    with ImageRunner(opened) as runner:
        found = {key: runner.run(key, after) for key, after in (("a", "b"), ("b", "c"), ("c", None))}
    for key, rows in found.items():
        expected = USED[key] * 2
        np.testing.assert_allclose(rows.boxes, expected, atol=1e-3)
        n = len(USED[key])
        assert rows.class_index.tolist() == [0] * n + [1] * n
        scores = 1 / (np.arange(n) + 2.0)
        own = rows.scores
        np.testing.assert_allclose(own, np.concatenate([scores, scores / 2]), atol=1e-6)
        np.testing.assert_array_equal(opened(key).boxes, rows.boxes)


def test_an_image_that_changed_fails_alone(predictor: DetectionPredictor) -> None:
    opened = predictor.open()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(predictor.split.image_root / "c.png")
    with pytest.raises(ImageError, match="changed after"):
        opened("c")
    assert len(opened("a").boxes) == 4


def test_new_images_need_no_weights_of_imagenet(folder: Path) -> None:
    """`predict` asks for the detections alone; whoever trains needs the weights."""
    split = look_at(list_images(folder / "voc" / "JPEGImages"), lambda _: None, (), NEW_IMAGES)
    new = context(folder / "runs" / "tiny", dataset="tiny", unlabelled=split)
    steps = list(load_recipe("wsod", "mist-vgg16").steps(new, NEW_IMAGES))
    assert [step.title for step in steps] == ["detections"] and "weights" not in steps[0].inputs
    with pytest.raises(UserError, match="vgg16"):
        list(load_recipe("wsod", "mist-vgg16").steps(replace(new, unlabelled=None), "test"))
