"""`weaksam cam --recipe clip-es` as a user types it, and its recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from tests.models.clip.tiny import official_state
from tests.tiny import CLASSES, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, cam_schema, read_class_maps
from weaksam_cli.cam.clip_es import Recipe, load_clip_es
from weaksam_cli.cam.stage import chosen_classes
from weaksam_cli.cli.app import app
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.prompt.peaks import Recipe as PeaksRecipe
from weaksam_cli.prompt.peaks import prompts_of_image

UNLABELLED, TWO_LABELS = "000002", "000001"
OPTIONS = ("--dataset", "tiny", "--workers", "1", "--set", "affinity.blocks=2")


def test_the_recipe_of_voc_is_the_default_of_the_type() -> None:
    loaded = load_recipe("cam", "clip-es")
    assert loaded.recipe == Recipe(difficult="include")


def test_the_recipe_of_coco_differs_in_words_and_boxes() -> None:
    loaded = load_recipe("cam", "clip-es-coco14")
    voc = Recipe().model_dump()
    voc["synonyms"], voc["affinity"]["box_threshold"] = "coco", 0.7
    assert loaded.recipe.model_dump() == voc


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("templates=[a photo]", "should match pattern"),
        ("templates=['{} and {}']", "should match pattern"),
        ("templates=[]", "at least 1 item"),
        ("background=[]", "at least 1 item"),
        ("class_prompts={dog: ''}", "at least 1 character"),
        ("synonyms=lvis", "'voc', 'coco' or 'none'"),
        ("affinity.blocks=0", "greater than or equal to 1"),
        ("affinity.bloks=4", "did you mean 'blocks'"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("cam", "clip-es", [change])


def test_words_of_a_dataset() -> None:
    recipe = Recipe(background=("sky", "red", "ground"), class_prompts={"blue one": "navy"})
    assert recipe.words(CLASSES) == {
        "class_prompts": ["navy", "green one", "red one"],
        "background_prompts": ["sky", "ground"],
    }


def test_a_network_with_fewer_blocks_than_the_recipe_wants_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save(official_state(), path)
    with pytest.raises(UserError, match=r"clip\.pt: affinity\.blocks is 8, the network has 3"):
        load_clip_es(Recipe(), ["dog"], path, "cpu")


def _red_object(text: str) -> str:
    start, end = text.index("<object>"), text.index("</object>") + len("</object>")
    return text[start:end].replace("blue one", "red one")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which data and cam have been run: three images to train, one of them empty and one of
    two classes, and two to test."""
    folder = tmp_path_factory.mktemp("clip")
    write_voc(folder / "voc", trainval=3, test=2)
    annotation = folder / "voc" / "Annotations" / f"{UNLABELLED}.xml"
    text = annotation.read_text()
    start, end = text.index("<object>"), text.index("</object>") + len("</object>")
    annotation.write_text(text[:start] + text[end:])
    annotation = folder / "voc" / "Annotations" / f"{TWO_LABELS}.xml"
    text = annotation.read_text()
    annotation.write_text(text.replace("</annotation>", f"{_red_object(text)}</annotation>"))
    (folder / "weights").mkdir()
    torch.save(official_state(seed=7), folder / "weights" / "ViT-B-16.pt")
    with pytest.MonkeyPatch.context() as patch:  # in this process: torch takes seconds to import
        patch.chdir(folder)
        for arguments in (("data", "voc", "--dataset", "tiny"), ("cam", "--recipe", "clip-es", *OPTIONS)):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, result.output
    return folder / "runs" / "tiny"


def test_training_images_get_maps_of_their_labels_and_an_empty_one_an_empty_row(run: Path) -> None:
    labels = read_labels(run / "labels" / "trainval.json", Path())
    with open_artifact(run / "cam" / "trainval.h5", cam_schema()) as artifact:
        assert artifact.image_ids == list(labels.keys)
        for image in labels.file.images:
            maps = read_class_maps(artifact, image.key)
            assert maps.classes() == sorted(labels.class_indexes(image))
            assert len(maps.maps) == 2 * len(maps.classes())
        assert read_class_maps(artifact, UNLABELLED).image_size == (48, 64)
        assert labels.class_indexes(labels.by_key()[UNLABELLED]) == []
        assert len(labels.class_indexes(labels.by_key()[TWO_LABELS])) == 2


def test_test_images_get_maps_of_predicted_classes_not_of_their_labels(run: Path) -> None:
    labels = read_labels(run / "labels" / "test.json", Path())
    differing = 0
    with open_artifact(run / "cam" / "test.h5", cam_schema()) as artifact:
        for image in labels.file.images:
            maps = read_class_maps(artifact, image.key)
            assert maps.classes() == chosen_classes(maps.class_scores, None, 0.1)
            differing += maps.classes() != labels.class_indexes(image)
    assert differing  # or this test would say nothing


def test_the_artifact_holds_what_clip_read(run: Path) -> None:
    with open_artifact(run / "cam" / "trainval.h5", cam_schema()) as artifact:
        assert list(artifact.table("class_prompts")) == list(CLASSES)
        assert len(artifact.table("background_prompts")) == 25
        assert list(artifact.table("kind_names")) == list(KINDS)
        assert artifact.column("values").dtype == np.float16


def test_the_prompt_stage_finds_peaks_of_both_kinds_and_none_where_nothing_is(run: Path) -> None:
    recipe = load_recipe("prompt", "weaksam").recipe
    assert isinstance(recipe, PeaksRecipe)
    with open_artifact(run / "cam" / "trainval.h5", cam_schema()) as artifact:
        for key in artifact.image_ids:
            found = prompts_of_image(read_class_maps(artifact, key), recipe, seed=0)
            counts = {KINDS[kind]: len(points) for kind, points in found}
            assert counts["cross"] == 0
            assert (counts["coarse"] > 0) == (counts["fine"] > 0) == (key != UNLABELLED)


CANDIDATES = ("a photo of a {}.", "{}", '"{}"')


@pytest.fixture
def ranked(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`weaksam clip-templates` in this process: torch takes seconds to import."""
    monkeypatch.chdir(run.parents[1])
    common = ["--device", "cpu", "--dataset", run.name, "--weights-dir", "weights"]
    return lambda *given: CliRunner().invoke(app, ["clip-templates", *given, *common])


def test_templates_are_ranked_on_the_images_of_several_classes(ranked: Callable[..., Result]) -> None:
    result = ranked(*CANDIDATES, "--json")
    assert result.exit_code == 0, result.output
    table = next(item for item in map(json.loads, result.stdout.splitlines()) if item["event"] == "table")
    assert table["title"].startswith("1 images of trainval with two labels or more")
    values = [float(value) for _, value in table["rows"]]
    assert values == sorted(values)
    assert values[0] > 0
    assert {template for template, _ in table["rows"]} == set(CANDIDATES)


def test_a_image_that_cannot_be_read_is_named(run: Path, ranked: Callable[..., Result]) -> None:
    path = run.parents[1] / "voc" / "JPEGImages" / f"{TWO_LABELS}.jpg"
    before = path.read_bytes()
    path.write_bytes(b"no image")
    result = ranked("{}")
    path.write_bytes(before)
    assert result.exit_code == 2, result.output
    assert f"{TWO_LABELS}.jpg" in result.output
    assert "no image with two labels can be read" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a photo",), "templates"),
        (("--recipe", "lite0"), "not a recipe of CLIP-ES"),
        (("--split", "test"), "is no training split"),
    ],
)
def test_what_cannot_be_ranked_is_told(
    ranked: Callable[..., Result], arguments: tuple[str, ...], said: str
) -> None:
    result = ranked(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output


FAULTS = {
    "no weights": (("--set", "weights=ViT-L-14.pt"), "the weights file 'ViT-L-14.pt' is not in"),
    "no such class": (("--set", "class_prompts={red: crimson}"), "no class 'red', did you mean 'red one'?"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_faults_end_with_one_line_and_code_2(run: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(run.parents[1])
    arguments, message = FAULTS[name]
    given = ("cam", "--recipe", "clip-es", *OPTIONS, "--variant", "other", "--split", "test", *arguments)
    result = CliRunner().invoke(app, given)
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert (result.exit_code, len(errors)) == (2, 1)
    assert message in errors[0]
