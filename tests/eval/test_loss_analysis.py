"""The loss analysis of a tiny run: of its detector, of a checkpoint, of a training that goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import done_here, run_here
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.core.boxes import iou
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.eval.case import load_ground_truth
from weaksam_cli.training.checkpoint import Checkpoint, read_metadata, read_tensors

COMMAND = ("eval", "--dataset", "tiny", "--workers", "1", "--recipe", "loss-analysis", "--set", "regions=12")
ROWS = ("boxes", "class_index", "classification", "regression", "pseudo_box", "true_iou", "wrong")


@pytest.fixture(scope="module")
def analysed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the finished run with the analysis, and what the command said."""
    folder = tmp_path_factory.mktemp("analysed") / "work"
    shutil.copytree(finished, folder)
    with contextlib.chdir(folder):
        return folder, done_here(*COMMAND)


def checkpoint(run: Path, *, told: bool = True) -> bytes:
    """As a training would have written it just before it ended."""
    model = run / "retrain" / "model.safetensors"
    metadata = read_metadata(model) if told else {}
    return Checkpoint(3, read_tensors(model), {}, {}, "of a training", metadata=metadata).to_bytes()


def rows(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    with open_artifact(path) as artifact:
        return {name: artifact.column(name) for name in ROWS}


def test_every_region_has_losses_and_what_is_wrong(analysed: tuple[Path, str]) -> None:
    run = analysed[0] / "runs" / "tiny"
    labels = read_labels(run / "labels" / "trainval.json", run)
    pseudo = read_detections(run / "pgt" / "trainval.json", labels)
    truth = load_ground_truth(run, read_source(run), labels).objects
    with open_artifact(run / "eval" / "losses-trainval.h5") as artifact:
        assert artifact.image_ids == list(labels.keys)
        for key in labels.keys:
            found = {name: np.asarray(artifact.rows(key, name), np.float64) for name in ROWS}
            assert len(found["boxes"]) == (12 if len(pseudo[key]) else 0)
            foreground = found["class_index"] >= 0
            assert np.isnan(found["regression"][~foreground]).all() and not found["wrong"][~foreground].any()
            assert (found["classification"] >= 0).all() and (found["regression"][foreground] >= 0).all()
            taught = found["pseudo_box"][foreground].astype(int)
            boxes = pseudo[key].boxes[taught]
            assert (pseudo[key].class_index[taught] == found["class_index"][foreground]).all()
            quality = iou(boxes, truth[key].boxes, plus_one=True).max(axis=1, initial=0)
            assert found["true_iou"][foreground] == pytest.approx(quality)
            assert (found["wrong"][foreground, 0] == (quality < 0.5)).all()


def test_figures_table_and_plot(analysed: tuple[Path, str]) -> None:
    folder, said = analysed
    place = folder / "runs" / "tiny" / "eval"
    content = json.loads((place / "losses-trainval.json").read_text())
    columns = rows(place / "losses-trainval.h5")
    assert content["foreground"]["regions"] == int((np.asarray(columns["class_index"], int) >= 0).sum()) > 0
    assert (content["tau_cls"], content["tau_reg"]) == (4.0, 1.0)  # the detector's
    assert (place / "losses-trainval.png").read_bytes().startswith(b"\x89PNG")
    for line in ("all foreground RoIs", "dropped: intersection", "dropped: separate, from regression"):
        assert line in said
    assert "test: the detector does not learn from it" in said


def test_again_nothing_is_done_and_another_threshold_reads_the_same_rows(analysed: tuple[Path, str]) -> None:
    folder, _ = analysed
    with contextlib.chdir(folder):
        assert done_here(*COMMAND).count("fresh, nothing to do") == 3
        said = done_here(*COMMAND, "--set", "tau_reg=0", "--variant", "low")
    assert "eval@low/losses-trainval.h5: the same as eval/losses-trainval.h5, shared" in said
    content = json.loads((folder / "runs/tiny/eval@low/losses-trainval.json").read_text())
    assert content["tau_reg"] == 0
    assert content["dropped"]["union_fg"]["regions"] >= content["dropped"]["intersection"]["regions"]


def test_a_training_that_is_not_done(analysed: tuple[Path, str]) -> None:
    """Its newest checkpoint is looked at: the same weights have the same losses."""
    folder, _ = analysed
    run = folder / "runs" / "tiny"
    place = run / "retrain@going" / "model.safetensors.shards" / ("0" * 16) / "checkpoint.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(checkpoint(run))
    with contextlib.chdir(folder):
        done_here(*COMMAND, "--variant", "going")
    expected, found = (rows(run / name / "losses-trainval.h5") for name in ("eval", "eval@going"))
    for name in ROWS:
        np.testing.assert_array_equal(found[name], expected[name])
    content = json.loads((run / "eval@going" / "losses-trainval.json").read_text())
    assert content["iterations"] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "model=gone.pt"), "model = gone.pt: there is no such file"),
        (
            ("--set", "model=old.pt"),
            "the checkpoint does not tell of what network it is. Go on with the training",
        ),
        (("--set", "model=damaged.pt"), "this is no training checkpoint of this version"),
        (("--set", "foreground=0"), "foreground: Input should be greater than 0"),
    ],
)
def test_what_cannot_be_analysed(analysed: tuple[Path, str], more: tuple[str, ...], message: str) -> None:
    folder, _ = analysed
    (folder / "old.pt").write_bytes(checkpoint(folder / "runs" / "tiny", told=False))
    (folder / "damaged.pt").write_bytes(b"nothing")
    with contextlib.chdir(folder):
        result = run_here(*COMMAND, "--variant", "wrong", *more)
    assert result.exit_code == 2
    assert message in result.output


def test_without_a_detector_it_says_so(analysed: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(analysed[0], tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "runs" / "tiny" / "retrain")
    with contextlib.chdir(tmp_path / "work"):
        result = run_here(*COMMAND)
    assert (result.exit_code, "no training has begun" in result.output) == (2, True)
