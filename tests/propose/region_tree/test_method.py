"""The recipe of the region tree, and how boxes of clues join those of the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from weaksam_cli.artifacts.proposals import SOURCES
from weaksam_cli.core.settings import stages_folder
from weaksam_cli.core.types import Points
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.propose.region_tree import Criterion, Recipe, TreeSettings, build


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
