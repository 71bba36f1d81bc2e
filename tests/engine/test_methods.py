"""A method is one module: found by listing the stage's folder or by entry points, and only the chosen one is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, Field

from tests.tiny import weaksam, weaksam_alone, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.methods import load_method, method_names
from weaksam_cli.engine.recipes import load_recipe, recipe_names
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage
from weaksam_cli.errors import UserError

KNOWN = {
    "data": {"voc", "coco", "folder", "demo"},
    "cam": {"lite0", "weaktr", "mctformer", "clip_es"},
    "prompt": {"peaks"},
    "propose": {"sam", "region_tree", "selective_search"},
    "wsod": {"wsddn", "oicr", "mist", "c_mil", "c_midn", "wsod2", "yang2019"},
    "pgt": {"adaptive", "top1"},
    "retrain": {"faster_rcnn", "mask_rcnn"},
    "eval": {"standard", "loss_analysis", "feature_similarity"},
}
METHODS = [(stage, name) for stage in STAGE_NAMES for name in method_names(stage)]


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_methods_of_a_stage_are_the_modules_of_its_folder(stage: str) -> None:
    assert KNOWN[stage] <= set(method_names(stage))
    assert load_stage(stage).name == stage


@pytest.mark.parametrize(("stage", "name"), METHODS)
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
    code = (
        "import sys, importlib\n"
        f"for stage, name in {METHODS!r}: importlib.import_module(f'weaksam_cli.{{stage}}.{{name}}')\n"
        "print(sorted({'torch', 'detectron2', 'cv2', 'h5py', 'transformers', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"here: method 'region-trees' .* did you mean 'region_tree'\?.*Allowed: .*sam"
    ):
        load_method("propose", "region-trees", where="here")


THEIRS = '''
"""One box an image: its middle."""
from typing import Literal

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.propose.stage import proposal_steps


class Recipe(RecipeModel):
    method: Literal["theirs"] = "theirs"
    share: float = 0.5


def build(recipe, weights, device):
    from weaksam_cli.artifacts.proposals import Proposals
    from weaksam_cli.core.boxes import as_boxes

    def propose(image, points):
        height, width = image.shape[:2]
        near, far = (1 - recipe.share) / 2, (1 + recipe.share) / 2
        boxes = as_boxes([[near * width, near * height, far * width, far * height]])
        return Proposals.from_boxes(boxes, "search")

    return propose


def steps(recipe, context, split):
    return proposal_steps(recipe, context, split, build)
'''


def test_a_method_of_another_distribution_is_found_and_runs(tmp_path: Path) -> None:
    """Installed beside weaksam: a module, and an entry point of the group `weaksam.propose` that names it."""
    site, voc = tmp_path / "site", write_voc(tmp_path / "voc", trainval=2, test=0)
    information = site / "theirs-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[weaksam.propose]\ntheirs = their_module\n")
    (site / "their_module.py").write_text(THEIRS)
    (tmp_path / "mine.yaml").write_text("method: theirs\nshare: 0.25\n")
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))}
    assert weaksam("data", voc, "--dataset", "tiny", folder=tmp_path).returncode == 0
    done = weaksam_alone(
        "propose", "--dataset", "tiny", "--recipe", "mine.yaml", folder=tmp_path, environment=paths
    )
    assert done.returncode == 0, done.stderr
    with open_artifact(tmp_path / "runs" / "tiny" / "proposals" / "trainval.h5", PROPOSALS) as artifact:
        assert artifact.column("boxes").tolist() == [[24, 18, 40, 30]] * 2
    unknown = weaksam("propose", "--dataset", "tiny", "--recipe", "mine.yaml", folder=tmp_path)
    assert unknown.returncode == 2 and "method 'theirs' is not one of propose's" in unknown.stderr


def test_hyphens_of_a_recipe_s_method_count_as_underscores() -> None:
    assert load_method("propose", "region-tree", where="here").__name__.endswith("region_tree")


BOUNDS = (("ge", "gt"), ("le", "lt"))


def without_bounds(model: type[BaseModel], place: str = "") -> Iterator[str]:
    """Fields of a recipe, and of the settings inside of it, whose numbers or lengths know no end."""
    for name, field in model.model_fields.items():
        yield from _unbounded(field.annotation, field.metadata, f"{place}{name}")


def _unbounded(annotation: Any, metadata: Sequence[Any], place: str) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        more = [part for item in annotation.__metadata__ for part in (*getattr(item, "metadata", ()), item)]
        yield from _unbounded(inner[0], [*metadata, *more], place)
    elif origin in (Union, UnionType):
        for choice in inner:
            yield from _unbounded(choice, metadata, place)
    elif origin in (tuple, list, dict, set, frozenset):
        is_open = origin is not tuple or ... in inner
        if is_open and not any(getattr(item, "max_length", None) is not None for item in metadata):
            yield f"{place} has no max_length"
        for choice in inner:
            yield from _unbounded(choice, (), f"{place}[]")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from without_bounds(annotation, f"{place}.")
    elif annotation in (int, float):
        for names in BOUNDS:
            if not any(getattr(item, name, None) is not None for item in metadata for name in names):
                yield f"{place} has no {' or '.join(names)}"


@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_all_numbers_and_lists_of_a_recipe_have_bounds(stage: str, name: str) -> None:
    """Else a `--set` of a billion takes all memory, or never ends."""
    open_ends = list(without_bounds(load_method(stage, name, where="here").Recipe))
    assert not open_ends, (
        f"{stage}/{name}.py: give each of these a lower and an upper bound, as in Field(ge=1, le=100), and each list a "
        f"max_length, wide enough for every published recipe and too small for what no machine can do: {open_ends}"
    )


def test_a_setting_without_bounds_is_noticed() -> None:
    class Inner(RecipeModel):
        sides: tuple[int, ...] = ()

    class Outer(RecipeModel):
        good: Annotated[float, Field(ge=0, le=1)] | None = None
        pair: tuple[float, float] = (0.0, 1.0)
        inner: Inner | None = None
        step: int = Field(default=1, ge=1)

    assert list(without_bounds(Outer)) == [
        *("pair[] has no ge or gt", "pair[] has no le or lt") * 2,
        *("inner.sides has no max_length", "inner.sides[] has no ge or gt", "inner.sides[] has no le or lt"),
        "step has no le or lt",
    ]
