"""`weaksam predict IMAGES` as a user types it, and the same as a library: new images, with both detectors of a run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import weaksam_cli as weaksam
from tests.tiny import FAST, done_here, start_weaksam
from weaksam_cli.artifacts.receipt import receipt_path
from weaksam_cli.cli.app import app
from weaksam_cli.core.masks import encode
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import result_texts
from weaksam_cli.data.labels import Labels
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.errors import UserError
from weaksam_cli.predict.trained import chosen_detector
from weaksam_cli.retrain.choice import TRAINED, USES, Use, named

RETRAINED = ("--use", "retrain")
KEYS = ("000010.jpg", "000011.jpg", "000012.jpg")
"""The test split: of its images the stages, too, did not know the labels."""


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run, and images that it has not seen; one is broken."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(finished / "runs", folder / "runs", copy_function=shutil.copy2)
    (folder / "new").mkdir()
    for key in KEYS:
        shutil.copy(finished / "voc" / "JPEGImages" / key, folder / "new" / key)
    (folder / "new" / "broken.jpg").write_text("no image")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")


def predict(*arguments: str, code: int = 0, workers: str = "1") -> Result:
    command = ["predict", *arguments, "--workers", workers, "--dataset", "tiny"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == code, result.output
    return result


def by_key(results: Path, images: Path) -> dict[str, list[Any]]:
    """Class, box and score of every detection, by the stem of its image."""
    document = json.loads(images.read_text())
    keys = {image["id"]: Path(image["key"]).stem for image in document["images"]}
    found: dict[str, list[Any]] = {key: [] for key in keys.values()}
    for entry in json.loads(results.read_text()):
        found[keys[entry["image_id"]]].append((entry["category_id"], *entry["bbox"], entry["score"]))
    return found


@pytest.mark.parametrize("use", USES)
def test_new_images_get_what_the_stage_itself_finds_in_them(place: Path, use: Use) -> None:
    result = predict("new", "-o", f"out/{use}.json", "--use", use)
    assert f"predict: {named(use)}" in result.stderr
    assert "warning: broken.jpg: not an image of a known kind" in result.stderr
    assert re.search(
        rf"out/{use}\.json: \d+ boxes in 3 images, \d of them without any; scores from [\d.]+ on and 50% of the best of the "
        r"class in the image: the best agreement with the image-level labels of split test, F1 [\d.]+",
        result.stdout,
    )
    run = place / "runs" / "tiny"
    made = run / ("retrain/both" if use == "both" else f"{use}/detections") / "test.json"
    own = by_key(made, run / "labels" / "test.json")
    new = by_key(place / "out" / f"{use}.results.json", place / "out" / f"{use}.json")
    assert new.keys() == own.keys()
    for key, rows in own.items():
        np.testing.assert_allclose(np.asarray(new[key]), np.asarray(rows), atol=1e-4)
    assert "out/results.json: fresh" not in predict("new", "-o", f"out/{use}.json", "--use", use).stderr
    again = predict("new", "-o", f"out/{use}.json", "--use", use).stderr
    assert f"{use}.results.json: fresh, nothing to do" in again
    assert f"{use}.json: fresh, nothing to do" in again


def test_the_file_loads_in_pycocotools(place: Path) -> None:
    from pycocotools.coco import COCO

    predict("new", "-o", "out/retrain.json", "--use", "retrain")
    coco = COCO(str(place / "out" / "retrain.json"))
    assert {image["file_name"] for image in coco.imgs.values()} == set(KEYS)
    assert [item["name"] for item in coco.cats.values()] == ["blue one", "green one", "red one"]
    threshold = json.loads((place / "runs/tiny/retrain/threshold.json").read_text())["score"]
    assert coco.anns
    assert min(item["score"] for item in coco.anns.values()) >= threshold
    every = coco.loadRes(str(place / "out" / "retrain.results.json"))
    assert len(every.anns) > len(coco.anns), "the results have those below the threshold, too"


def test_another_threshold_format_and_pictures_cost_no_second_look(place: Path) -> None:
    predict("new", *RETRAINED, "-o", "out/retrain.json")
    result = predict("new", *RETRAINED, "-o", "out/retrain.json", "--min-score", "0.9", "--draw", "pics")
    assert "retrain.results.json: fresh, nothing to do" in result.stderr
    assert "retrain.json: stale because input --min-score" in result.stderr
    assert all(
        item["score"] >= 0.9 for item in json.loads((place / "out/retrain.json").read_text())["annotations"]
    )
    assert sorted(path.name for path in (place / "pics").iterdir()) == [f"{key}.png" for key in KEYS]
    with Image.open(place / "pics" / f"{KEYS[0]}.png") as picture:
        assert picture.info["Software"] == "weaksam"
    predict("new", *RETRAINED, "-o", "out/yolo", "--format", "yolo")
    texts = [path.read_text() for path in (place / "out" / "yolo").rglob("*.txt")]
    assert any("0." in text for text in texts)
    (place / "pics" / f"{KEYS[0]}.png").write_text("mine")
    refused = predict("new", *RETRAINED, "-o", "out/retrain.json", "--draw", "pics", code=2)
    assert "there is another file, which weaksam did not write" in refused.stderr
    assert (place / "pics" / f"{KEYS[0]}.png").read_text() == "mine"


def test_killed_resumed_divided_and_with_workers_the_bytes_are_the_same(place: Path) -> None:
    command = ["predict", "new", "--use", "wsod", "--dataset", "tiny", "-o"]
    predict("new", "-o", "out/wsod.json", "--use", "wsod")
    expected = [(place / "out" / name).read_bytes() for name in ("wsod.json", "wsod.results.json")]
    shards = place / "killed.results.json.shards"
    killed = start_weaksam(*command, "killed.json", "--workers", "1", folder=place, log=place / "log")
    while not list(shards.rglob("*.json")):
        assert killed.is_running()
        time.sleep(0.005)
    killed.send(signal.SIGKILL)
    assert killed.ended()[0] == -signal.SIGKILL
    assert not (place / "killed.json").exists()
    predict("new", "-o", "killed.json", "--use", "wsod", workers="2")
    assert "still missing" in predict("new", "-o", "parts.json", "--use", "wsod", "--shard", "1/2").stderr
    assert not (place / "parts.json").exists()
    predict("new", "-o", "parts.json", "--use", "wsod", "--shard", "2/2")
    for name in ("killed", "parts"):
        assert [(place / f"{name}{end}").read_bytes() for end in (".json", ".results.json")] == expected
        assert not list(place.glob(f"{name}*.shards"))


def test_masks_of_a_segmenter(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the results, every format and the pictures; the left half of each box stands for what a network answers."""
    texts_of = result_texts

    def with_masks(labels: Labels) -> Any:
        images, texts = labels.by_key(), texts_of(labels)

        def masked(key: str, found: Detections) -> list[str]:
            dense = np.zeros((len(found), images[key].height, images[key].width), bool)
            for mask, (left, top, right, bottom) in zip(dense, found.boxes.astype(int).tolist(), strict=True):
                mask[top : bottom + 1, left : (left + right) // 2 + 1] = True
            return texts(key, replace(found, masks=tuple(encode(dense)) if len(found) else ()))

        return masked

    monkeypatch.setattr("weaksam_cli.engine.detectors.result_texts", with_masks)
    out = tmp_path / "m.json"
    text = predict("new", *RETRAINED, "-o", str(out), "--draw", str(tmp_path / "pics")).stdout
    assert re.search(r"m\.json: \d+ boxes with masks in 3 images", text)
    entries = json.loads(out.read_text())["annotations"]
    assert entries and all(entry["segmentation"]["size"] == [48, 64] for entry in entries)
    assert all(entry["segmentation"] for entry in json.loads((tmp_path / "m.results.json").read_text()))
    told = [
        json.loads(line) for line in predict("new", *RETRAINED, "-o", str(out), "--json").stdout.splitlines()
    ]
    (summary,) = (line for line in told if "masks" in line)
    assert summary["masks"] == summary["boxes"] == len(entries)
    predict(
        "new",
        *RETRAINED,
        "-o",
        str(tmp_path / "plain"),
        "--format",
        "yolo",
        "--draw",
        str(tmp_path / "other"),
    )
    lines = [
        line.split() for path in (tmp_path / "plain").rglob("*.txt") for line in path.read_text().splitlines()
    ]
    assert len(lines) == len(entries) and all(len(line) >= 9 for line in lines)
    assert len(list((tmp_path / "pics").iterdir())) == 3


def test_a_model_by_itself(place: Path) -> None:
    """Without its run nothing says the ids of the classes, the size of the images or a threshold."""
    shutil.copy(place / "runs" / "tiny" / "retrain" / "model.safetensors", place / "mine.safetensors")
    result = predict("new/000010.jpg", "-o", "alone.json", "--model", "mine.safetensors")
    assert "scores from 0.5 on and 50% of the best of the class in the image: a usual one" in result.stdout
    document = json.loads((place / "alone.json").read_text())
    assert [item["name"] for item in document["categories"]] == ["blue one", "green one", "red one"]
    in_run = predict("new", "-o", "out/retrain.json", "--model", "runs/tiny/retrain/model.safetensors")
    assert "retrain.results.json: fresh, nothing to do" in in_run.stderr


def test_a_dry_run_writes_nothing(place: Path, tmp_path: Path) -> None:
    """It says which detector with which settings, from which score on, and how the files stand."""
    threshold = place / "runs/tiny/retrain/threshold.json"
    kept = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    target = str(tmp_path / "dry.json")
    for use, steps in (("retrain", 1), ("wsod", 5)):
        text = predict("new", "-o", target, "--use", use, "--dry-run").stdout
        assert re.search(
            rf"# predict: {steps} steps an image, what is below [\d.]+ left out \(the best agreement", text
        )
        assert "dry.results.json: missing" in text and "would be written from it (coco)" in text
        assert "short_side" in text
    assert not list(tmp_path.iterdir()) and threshold.is_file() == (threshold in kept)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == kept
    predict("new", "-o", target, *RETRAINED)
    assert "dry.results.json: fresh" in predict("new", "-o", target, *RETRAINED, "--dry-run").stdout


def test_strict_ends_with_code_3_and_the_file(place: Path) -> None:
    predict("new", "-o", "strict.json", "--strict", code=3)
    assert len(json.loads((place / "strict.json").read_text())["images"]) == 3


MISTAKES = {
    "empty folder": (("empty",), "there is no image in this folder"),
    "no images": (("gone",), "there is no such folder or file"),
    "no run": (("new", "--run-dir", "empty"), "is no run of weaksam|no trained detector"),
    "no model": (("new", "--model", "gone.safetensors"), "there is no such run or model"),
    "unknown detector": (("new", "--use", "wsdo"), "did you mean 'wsod'"),
    "wsod's model by itself": (("new", "--model", "w.safetensors"), "needs the rest of its run"),
    "text": (("new", "--model", "text.safetensors"), "not a safetensors file"),
    "foreign": (("new", "--model", "foreign.safetensors"), "is no detector of weaksam"),
    "half": (("new", "--model", "half.safetensors"), "not a safetensors file"),
    "other settings": (("new", "--model", "odd.safetensors"), "its configuration is none of this version"),
    "fewer classes": (("new", "--model", "few.safetensors"), "it names 2 classes and has 3"),
    "a head of class maps": (
        ("new", "--model", "runs/tiny/cam/head.safetensors"),
        "is a model of weaksam, and no detector",
    ),
    "format": (("new", "--format", "yola"), "there is no format 'yola', did you mean 'yolo'"),
    "not ours": (("new", "-o", "mine.json"), "which weaksam did not write"),
    "a folder": (("new", "-o", "new.json"), "is a folder|a folder stands"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_ends_with_one_line_and_code_2(place: Path, name: str) -> None:
    import torch
    from safetensors.torch import save_file

    from weaksam_cli.training.checkpoint import read_metadata, read_tensors, tensors_bytes

    if not (place / "mine.json").exists():
        model = place / "runs" / "tiny" / "retrain" / "model.safetensors"
        metadata, tensors = read_metadata(model), read_tensors(model)
        shutil.copy(place / "runs" / "tiny" / "wsod" / "model.safetensors", place / "w.safetensors")
        (place / "text.safetensors").write_text("no model")
        (place / "half.safetensors").write_bytes(model.read_bytes()[:1000])
        save_file({"a": torch.zeros(1)}, place / "foreign.safetensors")
        odd = {**metadata, "detectron2": {**metadata["detectron2"], "MODLE": 1}}
        (place / "odd.safetensors").write_bytes(tensors_bytes(tensors, odd))
        few = {**metadata, "class_names": ["a", "b"]}
        (place / "few.safetensors").write_bytes(tensors_bytes(tensors, few))
        (place / "new.json").mkdir()
        (place / "mine.json").write_text("mine")
    arguments, message = MISTAKES[name]
    last = predict(*arguments, code=2).stderr.splitlines()[-1]
    assert re.search(message, last), last
    assert (place / "mine.json").read_text() == "mine"


def test_a_damaged_model_of_a_run_and_a_stale_one_are_refused(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "runs" / "tiny", run, copy_function=shutil.copy2)
    head = run / "cam" / "head.safetensors"
    receipt = receipt_path(head)
    receipt.write_text(re.sub(r'"sha256": "[0-9a-f]{8}', '"sha256": "00000000', receipt.read_text()))
    result = predict("new", "-o", str(tmp_path / "o.json"), "--run-dir", str(run), "--use", "wsod", code=2)
    assert "the detector is stale" in result.stderr
    model = run / "retrain" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    where = ("-o", str(tmp_path / "o.json"), "--run-dir", str(run))
    result = predict("new", *RETRAINED, *where, code=2)
    assert "the file is damaged or was changed" in result.stderr


def test_the_detector_that_is_there_is_used(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match="no trained detector"):
        chosen_detector(run)
    for use in TRAINED:
        (tmp_path / use).mkdir()
        (tmp_path / use / "model.safetensors").touch()
        assert chosen_detector(run) == use
        (tmp_path / use / "model.safetensors").unlink()


def test_the_choice_of_retrain_is_followed_while_it_is_fresh(place: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(place / "runs" / "tiny", run.root, copy_function=shutil.copy2)
    choices = run.root / "retrain" / "choice"
    assert chosen_detector(run) == json.loads((choices / "test.json").read_text())["use"]
    done = ["retrain", "--dataset", "tiny", "--run-dir", str(run.root), "--split", "test", "--overwrite"]
    sets = [word for text in (*FAST["retrain"], "choice_margin=1", "both=null") for word in ("--set", text)]
    assert "handed over: the detector of retrain" in done_here(*done, "--profile", "embedded", *sets)
    assert chosen_detector(run) == "retrain", "by the split that was not learnt from"
    (choices / "test.json").unlink()
    assert chosen_detector(run) == json.loads((choices / "trainval.json").read_text())["use"]
    receipt = receipt_path(run.output("wsod", "trainval"))
    receipt.write_text(re.sub(r'"sha256": "[0-9a-f]{8}', '"sha256": "00000000', receipt.read_text()))
    assert chosen_detector(run) == "retrain", "the choice was between other detectors"


def test_a_retrained_detector_as_torchscript(place: Path) -> None:
    def export(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["export", *arguments, "--format", "torchscript", "-o", "script.pt"])
        assert result.exit_code == code, result.output
        return result.output

    assert "3 classes" in export("runs/tiny")
    assert "TorchScript" in export("runs/tiny/retrain/model.safetensors", "--overwrite")
    with pytest.warns(FutureWarning):
        script = torch.jit.load("script.pt")
    detector = weaksam.load_detector("runs/tiny", use="retrain")
    image = Image.open("new/000010.jpg").convert("RGB")
    for size, tolerance in (((80, 64), 1e-5), (image.size, 0.02)):  # the network's own size is not resized
        pixels = np.array(image.resize(size))
        boxes, scores, classes = script(torch.from_numpy(pixels).permute(2, 0, 1))
        found = detector(pixels, min_score=0.0)
        np.testing.assert_allclose(scores[:10].numpy(), found.scores[:10], atol=tolerance)
    assert tuple(script.class_names) == detector.classes
    assert boxes.shape == (len(classes), 4)
    assert "is no single network" in export("runs/tiny/wsod/model.safetensors", code=2)
    assert "is a model of weaksam, and no detector" in export("runs/tiny/cam/head.safetensors", code=2)
    for unused in (
        ("--min-score", "0.5"),
        ("--scores",),
        ("--images", "copy"),
        ("--order", "x"),
        ("--labels", "x"),
    ):
        assert "the format torchscript has no use for it" in export("runs/tiny", *unused, code=2)


@pytest.mark.parametrize("use", USES)
def test_as_a_library(place: Path, use: Any) -> None:
    predict("new", "-o", f"out/{use}.json", "--use", use)
    expected = by_key(place / "out" / f"{use}.results.json", place / "out" / f"{use}.json")
    detector = weaksam.load_detector("runs/tiny", use=use)
    assert detector.classes == ("blue one", "green one", "red one")
    for key in KEYS:
        path = place / "new" / key
        found = detector(path, min_score=0)
        rows = expected[path.stem]
        assert found.boxes.dtype == np.float32
        assert found.boxes.shape == (len(rows), 4)
        assert len(found.classes) == len(rows)
        np.testing.assert_allclose(np.sort(found.scores), np.sort([row[-1] for row in rows]), atol=1e-4)
        assert (np.diff(found.scores) <= 0).all()
        for same in (str(path), Image.open(path), np.asarray(Image.open(path))):
            sure = detector(same)
            classes = np.asarray([detector.classes.index(name) for name in found.classes], np.int32)
            believed = detector.threshold.believes(Detections(found.boxes, classes, found.scores))
            assert np.array_equal(sure.boxes, found.boxes[believed])
    with pytest.raises(ValueError, match=r"expected uint8 \(height, width, 3\), got float64"):
        detector(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not an image"):
        detector("new/broken.jpg")
