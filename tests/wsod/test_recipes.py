"""Recipes: the published settings, what is refused, and which part of a recipe decides which artifact."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from weaksam_cli.data.labels import Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.recipes import load_recipe, recipe_names
from weaksam_cli.errors import UserError

PUBLISHED = {
    # recipe: (images, iterations, milestones, learning rate, views of a test image, least side)
    "mist-vgg16": (5011, 30000, (20000, 26700), 1e-5, 14, 20),
    "mist-vgg16-voc12": (11540, 32000, (20000, 26700), 1e-5, 14, 20),
    "mist-vgg16-coco14": (82783, 125000, (82500, 115000), 1e-5, 14, 2),
    # 5011 images in steps of 4 are 1253 steps an epoch, in mmdet as here.
    "oicr-vgg16": (5011, 62650, (45108,), 8e-6, 5, 20),
    "oicr-vgg16-voc12": (11540, 72125, (51930,), 8e-6, 5, 20),
    "oicr-vgg16-coco14": (82783, 248352, (165568, 227656), 1e-5, 6, 20),
    "od-wscl-vgg16": (5011, 30000, (20000, 26700), 0.01, 14, 20),
    "cbl-vgg16": (5011, 35000, (25000,), 0.002, 12, 2),
    "casd-vgg16": (5011, 100000, (50000,), 0.001, 10, 20),
    "wsovod-vgg16": (5011, 100000, (70000,), 0.001, 16, 1),
}


def recipe_of(name: str, *changes: str) -> Any:
    return load_recipe("wsod", name, changes).recipe


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_settings(name: str) -> None:
    images, iterations, milestones, rate, views, side = PUBLISHED[name]
    recipe = recipe_of(name)
    schedule = recipe.schedule.resolved(images)
    assert (schedule.steps, schedule.milestones, schedule.learning_rate) == (iterations, milestones, rate)
    assert schedule.resolved(1) == schedule
    tested = recipe.network.test_images
    assert len(tested.short_sides) * (2 if tested.flip else 1) == views
    assert recipe.proposals.min_side == side


def test_coco14_is_trained_without_drop_block() -> None:
    """The published file has no DB section, hence the trainer runs plainly; VOC has DropBlock."""
    assert recipe_of("mist-vgg16-coco14").drop_block is None
    for name in ("mist-vgg16", "mist-vgg16-voc12"):
        settings = recipe_of(name).drop_block
        assert settings is not None and settings.bias_factor == 2 and settings.decay == 3


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_boxes_and_sizes_are_taken_as_published(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.network.views.boxes == ("edges" if name == "wsovod-vgg16" else "inclusive")
    wetectron = name.startswith(("mist", "od-wscl"))
    assert recipe.network.views.sizes == ("truncated" if wetectron else "rounded")
    assert recipe.inference.inclusive or name in ("casd-vgg16", "cbl-vgg16", "wsovod-vgg16")
    assert recipe.method != "oicr" or recipe.mining.inclusive


def test_every_setting_stands_in_the_recipes() -> None:
    """No number hides in a default: what is written is all there is."""
    from weaksam_cli.core.settings import read_yaml_mapping
    from weaksam_cli.engine.recipes import find_recipe

    def keys(values: dict[str, Any], prefix: str = "") -> set[str]:
        found = {f"{prefix}{name}" for name in values}
        for name, value in values.items():
            found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) else set()
        return found

    for name in recipe_names("wsod"):
        written = keys(read_yaml_mapping(find_recipe("wsod", name)))
        missing = keys(recipe_of(name).model_dump(mode="json")) - written
        # A schedule has one of two lengths, and milestones or a cosine.
        allowed = {"schedule.iterations", "schedule.epochs", "schedule.milestones", "schedule.decay"}
        assert missing <= allowed, name


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mist-vgg16", "schedule.epochs=2", "expected iterations or epochs, and not both"),
        ("oicr-vgg16", "schedule.epochs=null", "expected iterations or epochs, and not both"),
        ("mist-vgg16", "schedule.milestones=[5, 5]", "expected increasing numbers"),
        ("mist-vgg16", "schedule.milestones=[0]", "greater than or equal to 1"),
        ("mist-vgg16", "schedule.cosine=true", "expected a cosine or milestones"),
        (
            "mist-vgg16",
            "network.train_images.short_sides=[]",
            r"network\.train_images\.short_sides: .*at least 1 item",
        ),
        ("mist-vgg16", "network.test_images.short_sides=[64, 64]", "expected each size once"),
        ("mist-vgg16", "drop_block.block=2", "expected an odd number, got 2"),
        (
            "mist-vgg16",
            "network.pixels.deviation=[0, 1, 1]",
            r"network\.pixels\.deviation\.0: .*greater than or equal to 0.001",
        ),
        ("mist-vgg16", "network.frozen_blocks=6", "less than or equal to 5"),
        ("mist-vgg16", "network.name=resnet", r"network: .*'lite0', 'vgg16'"),
        ("mist-vgg16", "network.lenght=6", "unknown key 'network.lenght'.*Allowed: .*widths"),
        ("oicr-lite0", "network.widths=[1]", "unknown key 'network.widths'.*Allowed: dense, features"),
        ("oicr-vgg16", "drop_block=null", "unknown key 'drop_block'"),
        ("mist-vgg16", "mining.ratio=0.9", "unknown key 'mining.ratio'"),
        ("oicr-vgg16", "mining.prior_weight=1", "vgg16 has no prior of class maps"),
        ("mist-vgg16", "mining.prior_weight=1", "vgg16 has no prior of class maps"),
        ("wsddn-vgg16", "prior_weight=1", "vgg16 has no prior of class maps"),
        ("oicr-lite0", "mining.prior_weight=0", "the prior needs a prior_weight above 0"),
        ("oicr-lite0", "mining.branch_weights=[]", "at least 1 item"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(name: str, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_of(name, change)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("od-wscl-lite0", "drop_block={probability: 0.3, block: 3}", "drop_block: lite0 has no map"),
        (
            "od-wscl-lite0",
            "contrast.hidden=0.3",
            "contrast.hidden: lite0 has no map .*; expected 0",
        ),
        (
            "wsovod-lite0",
            "prototypes=5",
            "prototypes: lite0 has no map of the image to pool cells from; expected null",
        ),
        ("wsovod-vgg16", "texts.templates=[photo]", "expected one {} for the class's name, got 'photo'"),
        ("casd-lite0", "distillation={weight: 0.1}", "distillation: lite0 has no map"),
        ("casd-lite0", "hiding={switch: 0.6}", "hiding: lite0 has no map"),
        ("cbl-lite0", "teacher.backbone=true", "teacher.backbone: lite0 is frozen"),
        ("od-wscl-vgg16", "drop_block.block=2", "expected an odd number, got 2"),
    ],
)
def test_what_needs_a_map_is_refused_on_lite0(name: str, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_of(name, change)


def test_drop_block_needs_the_cells_of_rois() -> None:
    from weaksam_cli.wsod.mist import Recipe

    values = {"method": "mist", "network": {"name": "lite0"}, "schedule": {"epochs": 1}}
    assert Recipe.model_validate(values | {"drop_block": None}).network.name == "lite0"
    with pytest.raises(ValueError, match="drop_block: lite0 has no map"):
        Recipe.model_validate(values)


def test_recipes_are_read_without_heavy_libraries() -> None:
    code = (
        "import sys; from weaksam_cli.engine.recipes import load_recipe, recipe_names; "
        "[load_recipe('wsod', name) for name in recipe_names('wsod')]; "
        "print(sorted({'torch', 'torchvision', 'detectron2', 'cv2', 'h5py'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class Places:
    """As much of a context as steps ask for."""

    unlabelled = None
    weights = SimpleNamespace(require=Path)
    run = SimpleNamespace(
        folder=Path,
        input=Path,
        output=lambda stage, split: Path(stage, split, "out"),
    )

    def train_split(self) -> str:
        return "trainval"

    def split(self, name: str) -> Split:
        return Split(Path("data", name), Path("images"))

    def rows(self, stage: str, split: str) -> Path:
        return Path(stage, split)


def identities(method: Any, recipe: Any) -> dict[str, str]:
    """The name of each artifact of the test split, with the settings that decide it."""
    steps = method.steps(recipe, cast(Context, Places()), "test")
    return {step.path.name: step.settings.model_dump_json() for step in steps}


SAMPLES, MODEL, RESULTS = {"samples-trainval.h5", "feature_model.safetensors"}, {"model.safetensors"}, {"out"}
REGIONS = {"regions-trainval.h5", "regions-test.h5"}


@pytest.mark.parametrize(
    ("name", "change", "artifacts"),
    [
        ("oicr-lite0", "network.dense.folds=4", SAMPLES | REGIONS),
        ("oicr-lite0", "proposals.most=7", SAMPLES | REGIONS),
        ("oicr-lite0", "network.features.grid=4", SAMPLES | REGIONS | MODEL),
        ("oicr-lite0", "network.prior.thresholds=[0.5]", REGIONS | RESULTS),
        ("oicr-lite0", "network.prior.floor=0.5", MODEL | RESULTS),
        ("oicr-lite0", "network.prior.weight=2", RESULTS),
        ("oicr-lite0", "network.image_score_weight=2", RESULTS),
        ("oicr-lite0", "schedule.batch_size=4", MODEL),
        ("oicr-lite0", "mining.ratio=0.5", MODEL | RESULTS),
        ("oicr-lite0", "inference.nms=0.5", RESULTS),
        ("mist-vgg16", "network.test_images.flip=false", RESULTS),
        ("mist-vgg16", "inference.nms=0.5", RESULTS),
        ("mist-vgg16", "schedule.batch_size=4", MODEL),
        ("mist-vgg16", "network.train_images.flip=0", MODEL | RESULTS),
        ("mist-vgg16", "drop_block=null", MODEL | RESULTS),
        ("mist-vgg16", "proposals.most=7", MODEL | RESULTS),
    ],
)
def test_what_a_change_makes_again(name: str, change: str, artifacts: set[str]) -> None:
    plain, changed = load_recipe("wsod", name), load_recipe("wsod", name, [change])
    before, after = (identities(loaded.method, loaded.recipe) for loaded in (plain, changed))
    assert {path for path, settings in before.items() if settings != after[path]} == artifacts


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(
    "name",
    [
        "oicr-lite0",
        "wsddn-lite0",
        "mist-vgg16",
        "oicr-vgg16",
        "od-wscl-vgg16",
        "cbl-lite0",
        "wsovod-vgg16",
        "casd-vgg16",
    ],
)
def test_no_setting_is_forgotten(name: str) -> None:
    """Whatever is changed, some artifact is another one; identities once were keys picked by hand."""
    loaded, tried = load_recipe("wsod", name), 0
    before = identities(loaded.method, loaded.recipe)
    for key, value in _leaves(loaded.resolved()):
        other: Any = {bool: not value, int: 2, float: 0.25}.get(type(value))
        if isinstance(value, list):
            numbers = any(isinstance(item, float) for item in value)
            other = [item / 2 for item in value] if numbers else value[:-1]
        values = loaded.resolved()
        *groups, last = key.split(".")
        reduce(getitem, groups, values)[last] = other
        try:
            recipe = loaded.method.Recipe.model_validate(values)
        except ValidationError:
            continue
        tried += other != value
        assert other == value or identities(loaded.method, recipe) != before, key
    assert tried > 15
