"""The recipe is frozen, typed and refuses what does not fit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from weaksam_cli.retrain.recipe import FasterRcnnRecipe, RoiDrop


def values(**changes: Any) -> dict[str, Any]:
    return {
        "method": "faster-rcnn",
        "network": "faster-rcnn-lite0-fpn",
        "schedule": {"iterations": 10, "batch_size": 2, "learning_rate": 0.01},
        "train_images": {"short_sides": [64], "max_size": 128},
        "inference": {"short_side": 64, "max_size": 128},
    } | changes


def test_round_trip() -> None:
    recipe = FasterRcnnRecipe.model_validate(values())
    assert FasterRcnnRecipe.model_validate(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(ValidationError, match="frozen"):
        recipe.network = "faster-rcnn-r50-fpn"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "Extra inputs"),
        ({"network": "yolo"}, "faster-rcnn-lite0-fpn"),
        ({"roi_drop": {"semantics": "all"}}, "intersection"),
        ({"roi_drop": {"tau_cls": -1}}, "greater than or equal to 0"),
        ({"detector": {"first_level": 2}}, "expected 5 values"),
        ({"detector": {"anchor_sizes": [32]}}, "expected 4 values"),
        ({"network": "faster-rcnn-r50-fpn", "detector": {"context": True}}, "lite0-fpn only"),
        ({"backbone": {"norm": "batch"}}, "frozen normalisation only"),
        ({"backbone": {"pixels": "msra_bgr"}}, "expect imagenet_rgb"),
        ({"train_images": {"short_sides": [], "max_size": 1}}, "at least 1 item"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FasterRcnnRecipe.model_validate(values(**changes))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"milestones": [8, 6]}, "increasing"),
        ({"milestones": [6, 6]}, "increasing"),
        ({"decay": "cosine", "milestones": [6]}, "belong to decay: steps"),
        ({"iterations": 0}, "greater than 0"),
    ],
)
def test_schedules(schedule: dict[str, Any], message: str) -> None:
    base = {"iterations": 10, "batch_size": 2, "learning_rate": 0.01}
    with pytest.raises(ValidationError, match=message):
        FasterRcnnRecipe.model_validate(values(schedule=base | schedule))


@pytest.mark.parametrize(
    ("enabled", "iteration", "active"),
    [(True, 0, False), (True, 1999, False), (True, 2000, True), (True, 9000, True), (False, 9000, False)],
)
def test_when_the_drop_is_on(enabled: bool, iteration: int, active: bool) -> None:
    assert RoiDrop(enabled=enabled, start_iteration=2000).active(iteration) is active


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys, weaksam_cli.retrain.recipe; "
        "sys.exit(bool({'torch', 'detectron2', 'timm', 'cv2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
