"""Recipes: all that ship are valid; lines and suggestions in refusals; profiles; settings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from weaksam_cli.core.settings import read_yaml, stages_folder
from weaksam_cli.engine import profiles
from weaksam_cli.engine.profiles import choose_profile, profile_names, read_profile
from weaksam_cli.engine.recipes import load_recipe, recipe_names
from weaksam_cli.engine.stages import STAGE_NAMES
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import WeightsFinder

SHIPPED = [(stage, name) for stage in STAGE_NAMES for name in recipe_names(stage)]


@pytest.mark.parametrize(("stage", "name"), SHIPPED)
def test_every_recipe_that_ships_is_valid_and_complete(stage: str, name: str) -> None:
    import yaml

    loaded = load_recipe(stage, name)
    written = yaml.safe_load(loaded.path.read_text())
    assert loaded.name == name
    assert written["method"] == loaded.recipe.model_dump()["method"]


def test_every_stage_has_a_page_and_a_recipe() -> None:
    for stage in STAGE_NAMES:
        assert recipe_names(stage)
        text = (stages_folder() / stage / "README.md").read_text()
        for word in ("**Reads**", "**Writes**"):
            assert word in text or stage == "data"


def _prompt(tmp_path: Path, text: str) -> Path:
    original = (stages_folder() / "prompt" / "weaksam.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(original + text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed: 3\n", r"mine.yaml:\d+: unknown key 'speed'. Allowed: cluster, coarse, cross, fine, method"),
        ("fine: {window: 0, threshold: 0.9}\n", r"key 'fine' stands twice"),
        ("cluster: [1\n", "not readable as YAML"),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("prompt", str(_prompt(tmp_path, text)))


def test_a_yaml_tag_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("method: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_recipe("prompt", str(path))


LAUGHS = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LAUGHS}method: *a11\n", "expected a value, got the alias .a0: write the value out.*line 2"),
        ("fine: &f {window: 9}\nmethod: weaksam\ncoarse: *f\n", "got the alias .f"),
        ("method: !!float x\n", "not readable as YAML"),
        ("method: " + "9" * 5000 + "\n", "not readable as YAML"),
        ("method: " + "[" * 2000 + "\n", "not readable as YAML"),
    ],
)
def test_what_a_few_lines_stand_for_is_bounded(tmp_path: Path, text: str, message: str) -> None:
    """F13: 405 bytes never ended."""
    path = tmp_path / "laugh.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe("prompt", str(path))
    value = text.partition("method: ")[2].partition("\n")[0]
    if not value.startswith(("*", "weaksam")):
        with pytest.raises(UserError, match="the value of 'method' is not readable as YAML"):
            load_recipe("prompt", "weaksam", [f"method={value}"])


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("fine.window=9", "window", 9),
        ("fine.emit_fillers=false", "emit_fillers", False),
        ("fine.threshold=0.5", "threshold", 0.5),
    ],
)
def test_set_changes_nested_values(override: str, field: str, value: object) -> None:
    loaded = load_recipe("prompt", "weaksam", [override])
    assert loaded.resolved()["fine"][field] == value


def test_auto_falls_back_and_says_what_is_missing(tmp_path: Path) -> None:
    profile, why = choose_profile("auto", WeightsFinder((tmp_path,)))
    assert profile.name == "embedded"
    assert "sam_vit_h_4b8939.pth" in why
    assert profile_names()[0] == "auto"
    for name in ("embedded", "embedded-masks"):
        assert read_profile(name, WeightsFinder(())).missing(WeightsFinder(())) == []


def test_auto_never_takes_what_it_cannot_run(tmp_path: Path) -> None:
    for name in read_profile("paper", WeightsFinder(())).weights:
        (tmp_path / name).write_bytes(b"")
    finder = WeightsFinder((tmp_path,))
    lacking = read_profile("paper", finder).missing(finder)
    profile, _ = choose_profile("auto", finder)
    assert (profile.name == "paper") == (not lacking)


def test_of_several_recipes_a_profile_takes_the_first_whose_weights_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = tmp_path / "stages"
    shutil.copytree(stages_folder(), stages)
    text = (stages / "profiles" / "embedded.yaml").read_text()
    text = re.sub(r"propose: .*", "propose: [sam-vit-h, sam-vit-b, region-tree]", text)
    (stages / "profiles" / "embedded.yaml").write_text(text)
    monkeypatch.setattr(profiles, "stages_folder", lambda: stages)
    finder = WeightsFinder((tmp_path,))
    profile, why = choose_profile("embedded", finder)
    assert profile.recipes["propose"] == "region-tree"
    assert "not propose/sam-vit-h, which needs sam_vit_h_4b8939.pth; not propose/sam-vit-b" in why
    (tmp_path / "sam_vit_b_01ec64.pth").write_bytes(b"")
    profile, why = choose_profile("embedded", finder)
    assert profile.recipes["propose"] == "sam-vit-b"
    assert "sam-vit-h" in why and "sam-vit-b" not in why


def test_weights_are_searched_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    (second / "w.pth").write_bytes(b"x")
    finder = WeightsFinder((first, second))
    assert finder.find("w.pth") == second / "w.pth"
    with pytest.raises(UserError, match="is not in"):
        finder.require("other.pth")
    folders = WeightsFinder.of_environment(first, {"WEAKSAM_WEIGHTS": str(second), "HOME": "/h"}).folders
    assert folders == (first, second, Path("weights"), Path("/h/.cache/weaksam/weights"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "schedule.learning_rate=1e38",
            r"--set schedule.learning_rate=1e38: schedule.learning_rate: expected a number of at most 1e\+15, got 1e\+38",
        ),
        ("schedule.iterations=" + "9" * 400, "schedule.iterations: expected a number of at most"),
        ("schedule.learning_rate=.inf", "schedule.learning_rate"),
        ("schedule.learning_rate=.nan", "schedule.learning_rate"),
        ("head.x=[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]", "'head' is nested more than 20 levels deep"),
        (".".join(["a"] * 10_000) + "=1", "is no key: names of at most 20 levels"),
        ("a..b=1", "is no key"),
    ],
)
def test_numbers_and_depths_that_no_setting_has(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("retrain", "faster-rcnn-lite0-fpn", [change])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("010", 10), ("0x10", 16), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("yes", "yes"),
     ("true", True), ("~", None), ("", None), ("1_000", "1_000"), ("-.5", -0.5), ("+7", 7), ("'1'", "1"), ("=", "=")],
)  # fmt: skip
def test_values_are_what_they_look_like(tmp_path: Path, text: str, value: object) -> None:
    """F15: YAML 1.1 reads 1:30 as ninety, 010 as eight, and 1e-4 as text."""
    (tmp_path / "a.yaml").write_text(f"a: {text}\n")
    found = read_yaml(tmp_path / "a.yaml")[0]["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "text",
    [
        "!!float x",
        "!!binary aGk=",
        "!!set {a, b}",
        "!!timestamp 2001-01-01",
        "!x 1",
        '"\\0"',
        '"\\ud800"',
        "{[a]: b}",
    ],
)
def test_tags_and_text_that_is_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {text}\n")
    with pytest.raises(UserError, match="not readable as YAML"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("stage", "recipe", "override"),
    [
        ("retrain", "faster-rcnn-lite0-fpn", "schedule.learning_rate=1e10"),
        ("wsod", "oicr-lite0", "schedule.learning_rate=1e10"),
        ("prompt", "weaksam", "<<={}"),
    ],
)
def test_what_no_training_survives_is_refused(stage: str, recipe: str, override: str) -> None:
    with pytest.raises(UserError, match=r"--set .*less than or equal to 100|unknown key '<<'"):
        load_recipe(stage, recipe, [override])


@pytest.mark.parametrize(
    ("stage", "recipe", "override"),
    [
        ("cam", "vit-tiny", "fit.epochs=0"),
        ("cam", "vit-tiny", "scales=[1000000000]"),
        ("cam", "lite0", "short_sides=[100000]"),
        ("propose", "region-tree", "tree.max_pixels=1"),
        ("propose", "region-tree-edges", "turns=[0, 1]"),
        ("wsod", "oicr-lite0", "schedule.batch_size=1000000000"),
        ("wsod", "oicr-lite0", "schedule.iterations=0"),
        ("retrain", "faster-rcnn-lite0-fpn", "schedule.milestones=[0]"),
        ("data", "demo", "trainval=1000000000"),
    ],
)
def test_what_no_machine_can_do_is_refused(stage: str, recipe: str, override: str) -> None:
    with pytest.raises(UserError, match=r"--set .*: Input should be (greater|less) than or equal to"):
        load_recipe(stage, recipe, (override,))
