"""`weaksam eval` on proposals as a user types it: sources alone and together, curves, the plot, and its receipt."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.artifacts.helpers import STAGE, Knob, context
from tests.tiny import weaksam, write_voc
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.steps import Step, make

COMMAND = ("eval", "--dataset", "tiny", "--split", "trainval")
# The published convention shifts boxes against objects by a pixel, so the right box has an IoU of 0.87 with its object.
# The objects of `write_voc` are 32 x 24 pixels at column 6 + number % 9 and row 5 + number % 7.
IMAGES = 6


@dataclass(frozen=True)
class KnownProposals:
    """The object of every image from source 1, junk from source 0; images 4 and 5 have junk alone."""

    unranked: bool = False

    def open(self) -> ImageFunction:
        def function(image_id: str) -> ImageRows:
            number = int(image_id) - 1
            left, top = 6 + number % 9, 5 + number % 7
            boxes = [[0, 0, 5, 5], [1, 0, 6, 5], [left, top, left + 32, top + 24]][: 3 if number < 4 else 2]
            n = len(boxes)
            scores = np.full(n, np.nan) if self.unranked else np.asarray([0.3, 0.2, 0.9])[:n]
            return ImageRows(
                columns={
                    "boxes": np.asarray(boxes, np.float32),
                    "source": np.asarray([0, 0, 1], np.int8)[:n],
                    "prompt": np.arange(n, dtype=np.int32),
                    "mask_token": np.ones(n, np.int8),
                    "predicted_iou": scores.astype(np.float32),
                    "stability": np.ones(n, np.float32),
                },
                image={"image_size": np.asarray([48, 64], np.int32)},
                blobs={"masks": [np.zeros(0, np.uint8)] * n},
            )

        return function


def write_proposals(run: Path, variant: str, predictor: KnownProposals, sources: Sequence[str]) -> None:
    keys = [f"{number:06d}" for number in range(1, IMAGES + 1)]
    run_all = PerImage(PROPOSALS, keys, predictor, "proposals", {"source_names": sources})
    path = run / f"proposals{variant}" / "trainval.h5"
    settings = Knob(knob=int(predictor.unranked))
    step = Step(path, PROPOSALS, "trainval", settings, {}, run_all, "proposals")
    make(step, STAGE, context(run, dataset="tiny"))


def add_swapped_corners(annotation: Path) -> None:
    """A second object of the image whose box ends before it begins."""
    text = annotation.read_text()
    found = re.search(r"<object>.*?</object>", text, re.DOTALL)
    assert found is not None
    wrong = re.sub(r"<xmin>.*?</xmin>", "<xmin>60</xmin>", found.group())
    annotation.write_text(text.replace(found.group(), found.group() + wrong))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A working folder with evaluated proposals of two variants, and what `eval` printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_voc(folder / "voc", trainval=IMAGES, test=0)
    add_swapped_corners(folder / "voc" / "Annotations" / "000006.xml")
    assert weaksam("data", "voc", "--dataset", "tiny", folder=folder).returncode == 0
    run = folder / "runs" / "tiny"
    write_proposals(run, "", KnownProposals(), ("grid", "coarse", "fine", "cross"))
    write_proposals(run, "@other", KnownProposals(unranked=True), ("grid", "search"))
    dry = weaksam(*COMMAND, "--dry-run", folder=folder)
    assert dry.returncode == 0, dry.stderr
    assert "eval/trainval.json: missing" in dry.stdout
    assert not (run / "eval").exists()
    result = weaksam(*COMMAND, folder=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def results(folder: Path) -> Any:
    return json.loads((folder / "runs" / "tiny" / "eval" / "trainval.json").read_text())


def test_every_source_that_occurs_is_evaluated_alone(evaluated: tuple[Path, str]) -> None:
    metrics = {(item["variant"], item["name"]): item["value"] for item in results(evaluated[0])["metrics"]}
    for variant, second in (("", "coarse"), ("other", "search")):
        assert metrics[variant, "recall at IoU 0.5"] == pytest.approx(4 / 6, abs=1e-6)
        assert metrics[variant, "proposals an image"] == pytest.approx(16 / 6, abs=1e-6)
        assert metrics[variant, "recall at IoU 0.5: grid"] == 0
        assert metrics[variant, "proposals an image: grid"] == 2
        assert metrics[variant, f"recall at IoU 0.75: {second}"] == pytest.approx(4 / 6, abs=1e-6)
        assert metrics[variant, f"proposals an image: {second}"] == pytest.approx(4 / 6, abs=1e-6)
    assert not any("fine" in name or "cross" in name for _, name in metrics)


def test_objects_that_are_left_out_are_counted(evaluated: tuple[Path, str]) -> None:
    """An object with swapped corners was left out without a word."""
    folder = evaluated[0]
    truth = results(folder)["ground_truth"]
    assert truth["objects"] == IMAGES
    assert [item["image"] for item in truth["objects_left_out"]] == ["000006"]
    assert "object 2" in truth["objects_left_out"][0]["reason"]
    again = weaksam(*COMMAND, folder=folder)
    assert again.returncode == 0
    assert "1 objects of 1 images could not be used as ground truth" in again.stderr
    receipt = json.loads((folder / "runs" / "tiny" / "eval" / "trainval.json.receipt.json").read_text())
    assert [item["image"] for item in receipt["left_out"]] == ["000006"]
    assert receipt["failed"] == []
    strict = weaksam(*COMMAND, "--strict", folder=folder)
    assert strict.returncode == 3
    assert "1 objects are left out" in strict.stderr


def test_the_table_has_a_row_a_source(evaluated: tuple[Path, str]) -> None:
    whole, alone = evaluated[1].split("recall of every source of proposals alone")
    assert ": grid" not in whole
    assert "recall at IoU 0.5 " in whole
    rows = [line.split() for line in alone.splitlines() if line.startswith("propose")]
    assert rows == [
        ["propose", "grid", "0.0", "%", "0.0", "%", "0.0", "%", "2.0"],
        ["propose", "coarse", "66.7", "%", "66.7", "%", "0.0", "%", "0.7"],
        ["propose@other", "grid", "0.0", "%", "0.0", "%", "0.0", "%", "2.0"],
        ["propose@other", "search", "66.7", "%", "66.7", "%", "0.0", "%", "0.7"],
    ]


def test_curves_follow_the_predicted_iou_and_else_the_order(evaluated: tuple[Path, str]) -> None:
    folder = evaluated[0]
    budgets = ("--variant", "few", "--set", "recall_budgets=[1, 2, 3]")
    assert weaksam(*COMMAND, *budgets, folder=folder).returncode == 0
    content = json.loads((folder / "runs" / "tiny" / "eval@few" / "trainval.json").read_text())
    plain, other = content["curves"]
    assert (plain["stage"], plain["variant"], other["variant"]) == ("propose", "", "other")
    assert plain["budgets"] == [1, 2, 3, None]
    assert plain["proposals an image"] == [1, 2, 2.667, 2.667]
    assert plain["recall"]["0.75"] == [0.666667] * 4
    assert other["recall"]["0.75"] == [0, 0, 0.666667, 0.666667]
    refused = weaksam(*COMMAND, "--set", "recall_budgets=[2, 1]", folder=folder)
    assert refused.returncode == 2
    assert "recall_budgets: expected increasing numbers, got [2, 1]" in refused.stderr


def test_the_plot_is_an_artifact(evaluated: tuple[Path, str]) -> None:
    folder = evaluated[0]
    plot = folder / "runs" / "tiny" / "eval" / "trainval-recall.png"
    assert Image.open(plot).size == (1350, 585)
    assert results(folder)["format_version"] == 5
    drawn = plot.read_bytes()
    again = weaksam(*COMMAND, folder=folder)
    assert again.stderr.count("fresh, nothing to do") == 2
    assert "recall of every source" in again.stdout
    plot.unlink()
    assert weaksam(*COMMAND, folder=folder).returncode == 0
    assert plot.read_bytes() == drawn
    status = weaksam("status", "--dataset", "tiny", folder=folder).stdout
    (line,) = [row for row in status.splitlines() if row.startswith("eval/trainval-recall.png")]
    assert line.split()[1] == "fresh"
