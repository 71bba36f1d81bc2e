"""The recipe of the region tree, and how boxes of clues join those of the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from weaksam_cli.artifacts.proposals import SOURCES, Proposals
from weaksam_cli.core.types import Points
from weaksam_cli.engine.recipes import load_recipe, stages_folder
from weaksam_cli.propose.region_tree.method import Criterion, Recipe, TreeSettings, build, without_repeats


def test_the_clues_nms_leaves_the_grid_alone(sample: Callable[[int, int], NDArray[np.uint8]]) -> None:
    image = sample(60, 80)
    point = Points(
        np.asarray([[20, 30]] * 3, np.int32),
        np.zeros(3, np.int32),
        np.ones(3, np.float32),
        np.zeros(3, np.int16),
    )
    boxes = {}
    for threshold in (0.3, 1.0):
        found = build(Recipe(clue_nms=threshold, grid_boxes=40), None, "cpu")(image, {"coarse": point})
        grid = found.source == SOURCES.index("grid")
        boxes[threshold] = (found.boxes[grid], found.boxes[~grid])
    np.testing.assert_array_equal(boxes[0.3][0], boxes[1.0][0])
    assert len(boxes[0.3][0]) > 10
    assert len(boxes[0.3][1]) < len(boxes[1.0][1])


def test_every_box_of_the_grid_suppresses_also_one_that_another_would_suppress() -> None:
    """The second box of the grid (IoU 0.95) would go in NMS over the joined list, and the first clue (0.88, 0.93) stay."""
    grid = np.asarray([[0, 0, 100, 100], [0, 0, 100, 95]], np.float32)
    clues = Proposals.from_boxes(
        np.asarray([[0, 0, 100, 88], [50, 50, 60, 60], [50, 50, 60, 60], [0, 0, 100, 85]], np.float32), "fine"
    )
    kept = without_repeats(clues, grid, 0.9)
    assert kept.prompt.tolist() == [1, 3]
    assert without_repeats(clues, grid[:0], 0.9).prompt.tolist() == [0, 1]
    assert without_repeats(clues, grid, 1.0).prompt.tolist() == [0, 1, 2, 3]
    assert len(without_repeats(clues.take(np.zeros(4, bool)), grid, 0.9)) == 0


def test_every_knob_of_the_tree_is_in_the_recipe_and_so_in_the_identity() -> None:
    loaded = load_recipe("propose", "region-tree")
    assert loaded.recipe == Recipe(clues={"sources": ["coarse", "fine"]})
    assert set(loaded.resolved()["tree"]) == set(TreeSettings.model_fields)
    written = yaml.safe_load((stages_folder() / "propose" / "region-tree.yaml").read_text())
    assert set(written["tree"]) == set(TreeSettings.model_fields), (
        "the file shows all of them, each with its source"
    )
    changed = load_recipe("propose", "region-tree", ["tree.smoothing=1.2"])
    assert changed.resolved() != loaded.resolved()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"oversegmentations": ()}, "oversegmentations"),
        ({"diverse_iou": 0.9, "precise_iou": 0.5}, "diverse_iou <= precise_iou"),
        ({"consensus_iou": 1.0}, "consensus_iou"),
        ({"nesting_ratio": 0.5}, "nesting_ratio"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"criteria": [{"colour": 1}]}, "colour"),
        ({"criteria": [{"lab": -1}]}, "lab"),
    ],
)
def test_bad_settings(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TreeSettings(**knobs)
    with pytest.raises(ValidationError, match="one is above 0"):
        Criterion()
