"""The recipe: what it refuses, and how it maps onto detectron2's configuration."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from weaksam_cli.engine.recipes import load_recipe, recipe_names
from weaksam_cli.retrain.both import BothSettings
from weaksam_cli.retrain.choice import ChoiceSettings
from weaksam_cli.retrain.faster_rcnn import ModelSettings, Recipe
from weaksam_cli.retrain.rcnn import RoiDrop
from weaksam_cli.retrain.schedule import Schedule
from weaksam_cli.retrain.settings import InferenceSettings

PARTS = (ModelSettings, InferenceSettings, BothSettings, ChoiceSettings)


def values(**changes: Any) -> dict[str, Any]:
    return {
        "method": "faster_rcnn",
        "network": "lite0-fpn",
        "schedule": {"iterations": 10, "batch_size": 2, "learning_rate": 0.01},
        "train_images": {"short_sides": [64], "max_size": 128},
        "inference": {"short_side": 64, "max_size": 128},
    } | changes


def test_parts_are_all_of_the_recipe_once() -> None:
    recipe = Recipe.model_validate(values())
    parts = [recipe.part(kind).model_dump() for kind in PARTS]
    assert sum(map(len, parts)) == len(recipe.model_dump())
    assert {name: value for part in parts for name, value in part.items()} == recipe.model_dump()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "Extra inputs"),
        ({"network": "yolo"}, "expected one of .*lite0-fpn, .*r50-fpn"),
        ({"network": "../networks/lite0-fpn"}, "expected one of"),
        ({"roi_drop": {"semantics": "all"}}, "intersection"),
        ({"roi_drop": {"tau_cls": -1}}, "greater than or equal to 0"),
        ({"detector": {"first_level": 2}}, "expected 5 values"),
        ({"detector": {"first_level": 4}}, "expected 3 values"),
        ({"detector": {"first_level": 5}}, "2, 3 or 4"),
        ({"detector": {"anchor_sizes": [32]}}, "expected 4 values"),
        ({"network": "r50-fpn", "detector": {"context": True}}, "r50-fpn takes false only, got true"),
        ({"backbone": {"norm": "batch"}}, "backbone.norm: lite0-fpn takes frozen only, got batch"),
        ({"backbone": {"freeze_at": 9}}, "less than or equal to 8"),
        ({"backbone": {"pixels": "msra_bgr"}}, "takes imagenet_rgb only"),
        ({"train_images": {"short_sides": [], "max_size": 1}}, "at least 1 item"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(values(**changes))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"milestones": [8, 6]}, "increasing"),
        ({"milestones": [6, 6]}, "increasing"),
        ({"decay": "cosine", "milestones": [6]}, "belong to decay: steps"),
        ({"iterations": 0}, "greater than or equal to 1"),
        ({"epochs": 1}, "iterations or epochs, and not both"),
        ({"min_iterations": 5}, "belongs to epochs"),
        ({"iterations": None, "epochs": 1, "milestones": [6]}, "take milestone_shares"),
        ({"milestones": [6], "milestone_shares": [0.6]}, "milestones or milestone_shares, and not both"),
        ({"milestone_shares": [0.8, 0.6]}, "milestone_shares: expected increasing"),
        ({"milestone_shares": [1.5]}, "less than or equal to 1"),
        ({"decay": "cosine", "milestone_shares": [0.6]}, "belong to decay: steps"),
        ({"warmup_iterations": 5, "warmup_share": 0.1}, "warmup_iterations or warmup_share, and not both"),
        ({"warmup_share": 1.1}, "less than or equal to 1"),
    ],
)
def test_schedules(schedule: dict[str, Any], message: str) -> None:
    base = {"iterations": 10, "batch_size": 2, "learning_rate": 0.01}
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(values(schedule=base | schedule))


@pytest.mark.parametrize(
    ("images", "iterations", "warmup", "milestones", "epochs"),
    [
        (1, 1000, 50, (600, 800), "4000.0 epochs of 1)"),
        (20, 1000, 50, (600, 800), "200.0 epochs of 20)"),
        (597, 1000, 50, (600, 800), "6.7 epochs of 597)"),
        (5011, 8394, 420, (5036, 6715), "6.7 epochs of 5011)"),
    ],
)
def test_a_schedule_fits_the_data(
    images: int, iterations: int, warmup: int, milestones: tuple[int, int], epochs: str
) -> None:
    shares = {"epochs": 6.7, "min_iterations": 1000, "warmup_share": 0.05, "milestone_shares": (0.6, 0.8)}
    schedule = Schedule(**shares, batch_size=4, learning_rate=0.01).resolved(images)
    assert (schedule.steps, schedule.warmup_iterations, schedule.milestones) == (
        iterations,
        warmup,
        milestones,
    )
    assert schedule == schedule.resolved(7)
    words = f"{iterations} iterations of 4 images ({epochs}, warm-up of {warmup}, then"
    assert schedule.in_words(images).startswith(words)


@given(
    st.integers(1, 10**6),
    st.floats(1e-3, 100),
    st.none() | st.integers(1, 5000),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_schedule_warms_up_for_longer_than_it_lasts(
    images: int, epochs: float, least: int | None, warmup: float, step: float
) -> None:
    schedule = Schedule(
        epochs=epochs, min_iterations=least, batch_size=3, learning_rate=1,
        warmup_share=warmup, milestone_shares=(step,),
    ).resolved(images)  # fmt: skip
    assert 0 <= schedule.warmup_iterations <= schedule.steps >= (least or 1)
    assert 0 <= schedule.milestones[0] <= schedule.steps
    assert schedule.steps == max(least or 1, math.ceil(epochs * images / 3))


@pytest.mark.parametrize(
    ("name", "iterations", "warmup", "milestones", "drop"),
    [
        ("faster-rcnn-r50-fpn", 9000, 30, (6000, 8000), 2000),
        ("faster-rcnn-r50-fpn-voc12", 16000, 60, (10000, 14000), 4000),
        ("faster-rcnn-r50-fpn-coco14", 85000, 1000, (55000, 75000), 10000),
    ],
)
@pytest.mark.parametrize("images", [5, 5011, 100_000])
def test_published_schedules_are_the_published_ones_for_any_number_of_images(
    name: str, iterations: int, warmup: int, milestones: tuple[int, int], drop: int, images: int
) -> None:
    settings = load_recipe("retrain", name).recipe.part(ModelSettings)
    assert settings.resolved(images) == settings
    schedule = settings.schedule
    assert (schedule.steps, schedule.warmup_iterations, schedule.milestones) == (
        iterations,
        warmup,
        milestones,
    )
    assert (schedule.batch_size, settings.roi_drop.start_iteration) == (16, drop)


def test_the_embedded_recipe_does_not_learn_for_34_iterations_from_a_handful_of_images() -> None:
    settings = load_recipe("retrain", "faster-rcnn-lite0-fpn").recipe.part(ModelSettings).resolved(20)
    assert (settings.schedule.steps, settings.schedule.warmup_iterations) == (400, 20)
    assert settings.in_words(20).endswith(
        "the learning rate falls along a cosine; RoI drop from iteration 88"
    )


def test_networks_have_the_names_that_they_had() -> None:
    assert Recipe.model_validate(values(network="faster-rcnn-lite0-fpn")).network == "lite0-fpn"


@pytest.mark.parametrize("name", recipe_names("retrain"))
def test_recipes_that_come_along_fit(name: str) -> None:
    kinds = {"mask2former": "mask2former", "mask": "mask_rcnn", "dino": "dino"}
    method = next((kind for start, kind in kinds.items() if name.startswith(start)), "faster_rcnn")
    assert load_recipe("retrain", name).recipe.model_dump()["method"] == method


@pytest.mark.parametrize(
    ("enabled", "iteration", "active"),
    [(True, 0, False), (True, 1999, False), (True, 2000, True), (True, 9000, True), (False, 9000, False)],
)
def test_when_the_drop_is_on(enabled: bool, iteration: int, active: bool) -> None:
    assert RoiDrop(enabled=enabled, start_iteration=2000).active(iteration) is active


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from weaksam_cli.engine.recipes import load_recipe; load_recipe('retrain', 'faster-rcnn-lite0-fpn');"
        "sys.exit(bool({'torch', 'detectron2', 'timm', 'cv2', 'h5py'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("pixels", "order", "stride_in_1x1"), [("msra_bgr", "BGR", True), ("imagenet_rgb", "RGB", False)]
)
def test_r50_in_detectron2s_words(pixels: str, order: str, stride_in_1x1: bool) -> None:
    from weaksam_cli.retrain.detector import detectron_config

    recipe = load_recipe("retrain", "faster-rcnn-r50-fpn", (f"backbone.pixels={pixels}",)).recipe
    cfg = detectron_config(recipe.part(ModelSettings), 20, "cpu", Path("/somewhere/R-50.pkl"))
    assert (order, stride_in_1x1) == (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1)
    assert cfg.MODEL.BACKBONE.WEIGHTS == "/somewhere/R-50.pkl"
    assert cfg.MODEL.FPN.IN_FEATURES == cfg.MODEL.RESNETS.OUT_FEATURES == ["res2", "res3", "res4", "res5"]
    assert cfg.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    assert cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p2", "p3", "p4", "p5"]
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE) == (20, 512)
    assert cfg.MODEL.ROI_HEADS.DROP.start_iteration == 2000


def test_lite0_and_lite2_are_one_recipe_on_two_networks() -> None:
    one, other = (load_recipe("retrain", f"faster-rcnn-{name}-fpn").recipe for name in ("lite0", "lite2"))
    assert one.model_copy(update={"network": "lite2-fpn"}) == other


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_lite_in_detectron2s_words(name: str) -> None:
    from weaksam_cli.retrain.detector import detectron_config

    recipe = load_recipe("retrain", f"faster-rcnn-{name}-fpn").recipe
    cfg = detectron_config(recipe.part(ModelSettings), 3, "cpu")
    assert cfg.MODEL.FPN.IN_FEATURES == ["c4", "c5"]
    assert cfg.MODEL.RPN.IN_FEATURES == ["p4", "p5", "p6"]
    assert cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p4", "p5"]
    assert f"build_weaksam_{name}_fpn_backbone" == cfg.MODEL.BACKBONE.NAME
    assert cfg.MODEL.BACKBONE.CONTEXT == "head"
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[48], [96], [192]]
