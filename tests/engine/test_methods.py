"""A method is one module: found by listing the stage's folder or by entry points, and only the chosen one is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine import methods
from weaksam_cli.engine.methods import load_method, method_names
from weaksam_cli.engine.recipes import load_recipe, recipe_names
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage
from weaksam_cli.errors import UserError

KNOWN = {
    "data": {"voc", "coco", "folder", "demo"},
    "cam": {"lite0", "weaktr", "mctformer", "clip_es"},
    "prompt": {"peaks"},
    "propose": {"sam", "region_tree", "selective_search"},
    "wsod": {"wsddn", "oicr", "mist"},
    "pgt": {"adaptive", "top1"},
    "retrain": {"faster_rcnn"},
    "eval": {"standard"},
}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_methods_of_a_stage_are_the_modules_of_its_folder(stage: str) -> None:
    assert KNOWN[stage] <= set(method_names(stage))
    assert load_stage(stage).name == stage


@pytest.mark.parametrize(
    ("stage", "name"), [(stage, name) for stage in STAGE_NAMES for name in method_names(stage)]
)
def test_every_method_keeps_the_contract_and_has_a_recipe(stage: str, name: str) -> None:
    method = load_method(stage, name, where="here")
    assert issubclass(method.Recipe, RecipeModel)
    assert method.Recipe.model_config["frozen"] and method.Recipe.model_config["extra"] == "forbid"
    assert callable(getattr(method, "read" if stage == "data" else "steps"))
    field = method.Recipe.model_fields["method"]
    assert field.default == name or name in field.annotation.__args__
    assert name in {
        load_recipe(stage, recipe).recipe.model_dump()["method"] for recipe in recipe_names(stage)
    }


def test_importing_a_method_imports_nothing_heavy() -> None:
    """Recipes are parsed by `status` and `--dry-run`, which are to be quick."""
    names = [(stage, name) for stage in STAGE_NAMES for name in method_names(stage)]
    code = (
        "import sys, importlib\n"
        f"for stage, name in {names!r}: importlib.import_module(f'weaksam_cli.{{stage}}.{{name}}')\n"
        "print(sorted({'torch', 'detectron2', 'cv2', 'h5py', 'transformers', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"here: method 'region-trees' .* did you mean 'region_tree'\?.*Allowed: .*sam"
    ):
        load_method("propose", "region-trees", where="here")


def test_a_method_of_another_distribution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = SimpleNamespace(Recipe=RecipeModel, steps=lambda recipe, context, split: iter(()))
    entry = EntryPoint("theirs", "their_package.propose", "weaksam.propose")
    monkeypatch.setattr(methods, "entry_points", lambda group: [entry] if group == "weaksam.propose" else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: foreign)
    assert "theirs" in method_names("propose")
    assert "theirs" not in method_names("wsod")
    assert load_method("propose", "theirs", where="here").Recipe is RecipeModel


def test_hyphens_of_a_recipe_s_method_count_as_underscores() -> None:
    assert load_method("propose", "region-tree", where="here").__name__.endswith("region_tree")
