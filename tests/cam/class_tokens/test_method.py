"""Settings of the methods with class tokens: every key of a recipe belongs to the step that it decides."""

from __future__ import annotations

import pytest

from weaksam_cli.cam import mctformer, weaktr
from weaksam_cli.cam.class_tokens.method import FitSettings, MapSettings, TrainingSettings
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError


@pytest.mark.parametrize(
    ("recipe", "training", "maps"),
    [
        (weaktr.Recipe, weaktr.WeakTrTraining, weaktr.WeakTrMaps),
        (mctformer.Recipe, mctformer.MCTformerTraining, mctformer.MCTformerMaps),
    ],
)
def test_every_key_belongs_to_the_identity_of_a_step(
    recipe: type[RecipeModel], training: type[TrainingSettings], maps: type[MapSettings]
) -> None:
    keys = set(recipe.model_fields) - {"method", "weights"}  # the weights are an input, by their digest
    assert keys == set(training.model_fields) | set(maps.model_fields)
    assert set(FitSettings.model_fields) <= set(training.model_fields["fit"].annotation.model_fields)  # type: ignore[union-attr]


def test_what_decides_maps_alone_is_not_in_the_identity_of_the_network() -> None:
    recipes = [
        load_recipe("cam", "mctformer-v2", sets).recipe for sets in ([], ["class_layers=2", "scales=[0.5]"])
    ]
    trained, mapped = (
        [recipe.part(settings).model_dump() for recipe in recipes]
        for settings in (mctformer.MCTformerTraining, mctformer.MCTformerMaps)
    )
    assert trained[0] == trained[1]
    assert mapped[0] != mapped[1]


@pytest.mark.parametrize("given", [["attention_type=fused"], ["attention_type=patchcam"]])
def test_v1_has_no_patch_map(given: list[str]) -> None:
    with pytest.raises(UserError, match="V1 has attention_type 'attention' alone"):
        load_recipe("cam", "mctformer-v1", given)
    with pytest.raises(ValueError, match="V1 has attention_type"):
        mctformer.MCTformerMaps(version="v1")  # the default is V2's
