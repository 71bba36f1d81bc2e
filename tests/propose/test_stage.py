"""Which images are proposed, and whose points are whose."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import write_voc
from typer.testing import CliRunner

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.cli.app import app
from weaksam_cli.data.image_names import stem
from weaksam_cli.propose.stage import match_keys


@pytest.mark.parametrize(
    ("key", "name"),
    [("a.jpg", "a"), ("x/a.b.PNG", "a.b"), ("000001", "000001"), ("v1.2", "v1.2"), ("x/.jpg", ".jpg")],
)
def test_stem(key: str, name: str) -> None:
    assert stem(key) == name


@pytest.mark.parametrize(
    ("keys", "ids", "matched"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b"], {"a.jpg": "a.jpg", "b.jpg": "b"}),
        (["x/a.jpg"], ["y/a.png"], {"x/a.jpg": "y/a.png"}),
        (["x/a.jpg", "y/a.jpg"], ["a"], {}),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], {}),
        (["a.jpg", "a.png"], ["a"], {}),
        (["a.jpg", "x/a.jpg"], ["a.jpg"], {"a.jpg": "a.jpg"}),
        (["a.jpg"], [], {}),
    ],
)
def test_only_a_key_or_a_name_that_nobody_else_has_makes_a_match(
    keys: list[str], ids: list[str], matched: dict[str, str]
) -> None:
    assert match_keys(keys, ids) == matched


def test_a_recipe_that_no_clue_prompts_needs_no_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voc(tmp_path / "voc", trainval=3, test=0)
    monkeypatch.chdir(tmp_path)
    few = ("--recipe", "region-tree", "--set", "grid_boxes=5", "--workers", "1")
    commands = [("data", "voc"), ("propose", *few), ("propose", *few, "--set", "clues.sources=[]")]
    results = [CliRunner().invoke(app, [*command, "--dataset", "tiny"]) for command in commands]
    assert [result.exit_code for result in results] == [0, 2, 0], results[-1].output
    assert "Make it first: weaksam prompt" in results[1].output
    with open_artifact(Path("runs/tiny/proposals/trainval.h5")) as artifact:
        assert len(artifact) == 3
        assert set(artifact.column("source").tolist()) == {0}
