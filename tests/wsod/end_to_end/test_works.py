"""The detecting step on files: what it reads, and that it can run one image ahead."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.proposals import PROPOSALS, Proposals, proposals_to_rows
from weaksam_cli.artifacts.shards import shard_bytes
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.data.labels import LABELS_FORMAT, LABELS_VERSION
from weaksam_cli.engine.execution import ImageRunner
from weaksam_cli.errors import ImageError
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe
from weaksam_cli.wsod.end_to_end.works import VggDetectWork

HEIGHT, WIDTH = 40, 60
BOXES = {
    "a": [
        [0, 0, 30, 30],
        [0, 0, 5, 30],
        [20, 5, 70, 39],
    ],  # the second is too small, the third leaves the image
    "b": [],
    "c": [[10, 10, 40, 40]],
}
USED = {"a": [[0, 0, 30, 30], [20, 5, 60, 39]], "b": [[0, 0, 60, 40]], "c": [[10, 10, 40, 40]]}


@dataclass(frozen=True)
class Scored:
    scores: torch.Tensor
    boxes: torch.Tensor


def constant_network(items: list[dict[str, Any]]) -> list[Scored]:
    """Two classes; the r-th proposal scores 1 / (r + 2) and half of it."""
    boxes = items[0]["proposals"].proposal_boxes.tensor
    first = 1 / (torch.arange(len(boxes)) + 2.0)
    return [Scored(torch.stack([first, first / 2], dim=1), boxes)]


def load_constant(path: Path, recipe: MistRecipe, class_names: list[str], device: str) -> Any:
    assert class_names
    return constant_network


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
    data = shard_bytes(PROPOSALS, rows, [])
    (folder / "proposals.h5").write_bytes(data)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VggDetectWork:
    write_inputs(tmp_path)
    monkeypatch.setattr("weaksam_cli.wsod.end_to_end.fit.load_detector", load_constant)
    recipe = MistRecipe.model_validate(
        {"schedule": {"iterations": 1}, "inference": {"short_sides": (40, 80)}, "proposals": {"min_side": 20}}
    )
    labels, proposals = tmp_path / "labels.json", tmp_path / "proposals.h5"
    return VggDetectWork(recipe, labels, proposals, tmp_path, tmp_path / "model.safetensors", "cpu")


def test_it_detects_among_the_usable_proposals(work: VggDetectWork) -> None:
    opened = pickle.loads(pickle.dumps(work)).open()
    with ImageRunner(opened) as runner:
        found = {key: runner.run(key, after) for key, after in (("a", "b"), ("b", "c"), ("c", None))}
    for key, rows in found.items():
        expected = USED[key] * 2
        np.testing.assert_allclose(rows.boxes, expected, atol=1e-3)
        n = len(USED[key])
        assert rows.class_index.tolist() == [0] * n + [1] * n
        scores = 1 / (np.arange(n) + 2.0)
        met = rows.scores
        np.testing.assert_allclose(met, np.concatenate([scores, scores / 2]), atol=1e-6)
        np.testing.assert_array_equal(opened(key).boxes, rows.boxes)


def test_a_image_that_changed_fails_alone(work: VggDetectWork) -> None:
    opened = work.open()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(work.image_root / "c.png")
    with pytest.raises(ImageError, match="changed after"):
        opened("c")
    assert len(opened("a").boxes) == 4
