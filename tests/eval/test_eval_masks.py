"""`weaksam eval` of artifacts with masks as a user types it: figures, what is counted, and what makes them stale."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import done_here, write_voc
from weaksam_cli.core.masks import encode
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import annotations_bytes
from weaksam_cli.data.labels import read_labels

COMMAND = ("eval", "--dataset", "tiny", "--split", "trainval")


def true_mask(number: int) -> np.ndarray:
    """Of the object of `write_voc`, bool (48, 64)."""
    mask = np.zeros((48, 64), bool)
    left, top = 6 + number % 9, 5 + number % 7
    mask[top : top + 24, left : left + 32] = True
    return mask


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, four of them with masks, and detections that are the true masks, of half its height in image 4."""
    monkeypatch.chdir(tmp_path)
    write_voc(tmp_path / "voc", trainval=6, test=0)
    (tmp_path / "voc" / "SegmentationObject").mkdir()
    for number in range(4):
        name = tmp_path / "voc" / "SegmentationObject" / f"{number + 1:06d}.png"
        Image.fromarray(true_mask(number).astype(np.uint8)).save(name)
    done_here("data", "voc", "--dataset", "tiny")
    labels = read_labels(tmp_path / "runs" / "tiny" / "labels" / "trainval.json", Path())
    found = {}
    for number, key in enumerate(labels.keys):
        mask = true_mask(number)
        rows, columns = np.nonzero(mask)
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        if number == 3:
            mask[rows.min() + 12 :] = False
        index = np.asarray([number % 3], np.int32)
        scores = np.full(1, 0.9, np.float32)
        found[key] = Detections(np.asarray(box, np.float32), index, scores, tuple(encode(mask[None])))
    (tmp_path / "masks.json").write_bytes(annotations_bytes(found, labels))
    plain = {key: Detections(item.boxes, item.class_index, item.scores) for key, item in found.items()}
    (tmp_path / "boxes.json").write_bytes(annotations_bytes(plain, labels))
    return tmp_path


def results(folder: Path, variant: str) -> Any:
    return json.loads((folder / "runs" / "tiny" / f"eval@{variant}" / "trainval.json").read_text())


def test_masks_are_evaluated_where_both_have_some(folder: Path) -> None:
    masks = (*COMMAND, "--variant", "m", "--input", "retrain=masks.json", "--input", "pgt=masks.json")
    said = done_here(*masks)
    assert re.search(r"retrain +mask AP50 +voc +100\.0 %", said)
    assert re.search(r"pgt +mean best mask IoU +87\.5 %", said)
    assert "2 objects of 2 images have no mask: 000005, 000006" in said
    content = results(folder, "m")
    truth = content["ground_truth"]
    assert (truth["objects"], truth["masks"], truth["images_with_masks"]) == (6, 4, 4)
    values = {(item["stage"], item["name"]): item["value"] for item in content["metrics"]}
    half = {"coco": 51 / 101, "voc": 1 / 2}
    for protocol, share in half.items():
        assert values["retrain", f"mask AP50 ({protocol})"] == 1
        assert values["retrain", f"mask AP70 ({protocol})"] == pytest.approx((2 + share) / 3, abs=1e-6)
    assert values["retrain", "COCO AP small"] == values["retrain", "COCO AP50"] == 1
    assert values["retrain", "mask AP small (coco)"] == values["retrain", "mask AP (coco)"]
    assert values["retrain", "COCO AP large"] is values["retrain", "mask AP large (coco)"] is None
    assert values["pgt", "objects with mask IoU 0.7 or more"] == 0.75
    assert "fresh, nothing to do" in done_here(*masks)
    Image.fromarray(true_mask(2).astype(np.uint8)[::-1]).save("voc/SegmentationObject/000001.png")
    assert "eval@m/trainval.json: stale" in done_here(*masks, "--dry-run")


def test_without_masks_none_are_read(folder: Path) -> None:
    boxes = (*COMMAND, "--variant", "b", "--input", "retrain=boxes.json")
    (folder / "voc" / "SegmentationObject" / "000001.png").write_bytes(b"no image")
    done_here(*boxes)
    content = results(folder, "b")
    assert "masks" not in content["ground_truth"]
    assert not [item for item in content["metrics"] if "mask" in item["name"]]
    assert content["ground_truth"]["objects_left_out"] == []
