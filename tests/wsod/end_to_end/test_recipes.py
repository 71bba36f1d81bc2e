"""Recipes of MIST and OICR on VGG16."""

from __future__ import annotations

import pytest

from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe, ScheduleSettings

PUBLISHED = {
    # recipe: (images, iterations, milestones, learning rate, views of a test image, least side)
    "mist-vgg16": (5011, 30000, (20000, 26700), 1e-5, 14, 20),
    "mist-vgg16-voc12": (11540, 32000, (20000, 26700), 1e-5, 14, 20),
    "mist-vgg16-coco14": (82783, 125000, (82500, 115000), 1e-5, 14, 2),
    "oicr-vgg16": (5011, 62638, (45099,), 8e-6, 5, 20),
    "oicr-vgg16-voc12": (11540, 72125, (51930,), 8e-6, 5, 20),
    "oicr-vgg16-coco14": (82783, 248349, (165566, 227653), 1e-5, 6, 20),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_settings(name: str) -> None:
    samples, iterations, milestones, rate, views, side = PUBLISHED[name]
    recipe = load_recipe("wsod", name).recipe
    assert isinstance(recipe, MistRecipe | OicrRecipe)
    schedule = recipe.schedule.resolved(samples)
    assert (schedule.steps, schedule.milestones, schedule.learning_rate) == (iterations, milestones, rate)
    assert schedule.resolved(1) == schedule
    inference = recipe.inference
    assert len(inference.short_sides) * (2 if inference.flip else 1) == views
    assert recipe.proposals.min_side == side


def test_the_recipes_of_voc07_are_the_defaults_of_their_types() -> None:
    mist = load_recipe("wsod", "mist-vgg16").recipe
    oicr = load_recipe("wsod", "oicr-vgg16").recipe
    assert isinstance(mist, MistRecipe)
    assert isinstance(oicr, OicrRecipe)
    schedule = {"schedule"}
    bare = ScheduleSettings(iterations=1)
    assert oicr.model_dump(exclude=schedule) == OicrRecipe(schedule=bare).model_dump(exclude=schedule)
    default = MistRecipe(schedule=bare)
    assert mist.drop_block is not None
    assert default.drop_block is not None
    assert mist.drop_block.gamma == pytest.approx(default.drop_block.gamma)
    block = mist.drop_block.model_copy(update={"gamma": default.drop_block.gamma, "milestones": ()})
    found = mist.model_copy(update={"drop_block": block})
    assert found.model_dump(exclude=schedule) == default.model_dump(exclude=schedule)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mist-vgg16", "schedule.epochs=2", "expected iterations or epochs, and not both"),
        ("oicr-vgg16", "schedule.epochs=null", "expected iterations or epochs, and not both"),
        ("mist-vgg16", "schedule.milestones=[5, 5]", "expected increasing numbers"),
        ("mist-vgg16", "schedule.milestones=[0]", "greater than or equal to 1"),
        ("mist-vgg16", "train_images.short_sides=[]", "at least 1 item"),
        ("mist-vgg16", "inference.short_sides=[64, 64]", "expected each size once"),
        ("mist-vgg16", "drop_block.block=2", "expected an odd number, got 2"),
        ("mist-vgg16", "pixels.deviation=[0, 1, 1]", "greater than 0"),
        ("mist-vgg16", "network.frozen_blocks=6", "less than or equal to 5"),
        ("oicr-vgg16", "drop_block=null", "unknown key 'drop_block'"),
        ("mist-vgg16", "mining.ratio=0.9", "unknown key 'mining.ratio'"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(name: str, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("wsod", name, [change])
