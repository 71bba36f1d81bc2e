"""`weaksam leaderboard` on a tiny run: what is shared, gone on with, refused and told."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml

import weaksam_cli as weaksam
from tests.tiny import FAST, done_here, run_here
from weaksam_cli.engine.recipes import recipe_names
from weaksam_cli.report.board import read_boards

SETS = [
    word for stage in ("propose", "wsod") for text in FAST[stage] for word in ("--set", f"{stage}.{text}")
]
BOARD = ["leaderboard", "--dataset", "tiny", "--profile", "embedded", "--workers", "1"]
FIGURES = {"CorLoc", "VOC AP50", "training minutes", "training peak GB"}
CHOICE = ["--methods", "wsddn-lite0,c-mil-lite0", "--split", "trainval", *SETS]


@pytest.fixture(scope="module")
def board(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the finished run with a leaderboard of one split, and what the command said."""
    folder = tmp_path_factory.mktemp("board") / "work"
    shutil.copytree(finished, folder)
    with contextlib.chdir(folder):
        return folder, done_here(*BOARD, *CHOICE, "-o", "figures.csv")


def test_a_row_for_each_method(board: tuple[Path, str]) -> None:
    folder, said = board
    rows = list(csv.DictReader((folder / "figures.csv").open()))
    assert {(row["method"], row["proposals"]) for row in rows} == {
        ("wsddn-lite0", "region-tree"),
        ("c-mil-lite0", "region-tree"),
    }
    assert {row["metric"].split(" (")[0] for row in rows} == FIGURES
    assert "published CorLoc" in said and "53.5" in said and "65.0" in said
    assert "compares with no other images" in said


def test_the_run_keeps_it_for_its_page(board: tuple[Path, str]) -> None:
    folder, said = board
    run = folder / "runs" / "tiny"
    ((kept, plot),) = read_boards(run, ["trainval", "test"])
    assert kept.header == [
        "method", "proposals", "seeds", "CorLoc", "VOC AP50", "training minutes", "training peak GB", "published CorLoc",
    ]  # fmt: skip
    assert [row[0] for row in kept.rows] == ["wsddn-lite0", "c-mil-lite0"]
    assert [item["variants"] for item in kept.settings] == [
        {"0": "wsddn-lite0_region-tree_s0"},
        {"0": "c-mil-lite0_region-tree_s0"},
    ]
    assert plot.startswith("data:image/png;base64,iVBOR")
    assert f"drawn: {Path('runs/tiny/leaderboard/trainval.png')}" in said
    with contextlib.chdir(folder):
        done_here("report", "--dataset", "tiny", "-o", "board.html")
    page = (folder / "board.html").read_text()
    assert 'id="leaderboard"' in page and "<td>c-mil-lite0</td>" in page and plot in page
    place = run / "leaderboard" / "trainval.json"
    whole = place.read_bytes()
    place.write_bytes(whole[:50])
    with contextlib.chdir(folder):
        done_here("report", "--dataset", "tiny", "-o", "board.html")
    place.write_bytes(whole)
    page = (folder / "board.html").read_text()
    assert 'id="leaderboard"' not in page and "leaderboard/trainval.json" in page


def test_proposals_and_features_are_shared(board: tuple[Path, str]) -> None:
    folder, said = board
    assert "proposals@region-tree/trainval.h5: the same as proposals/trainval.h5, shared" in said
    assert said.count("regions-trainval.h5: the same as") == 2
    assert sorted(path.name for path in (folder / "runs" / "tiny").glob("*@*")) == [
        "proposals@region-tree",
        "wsod@c-mil-lite0_region-tree_s0",
        "wsod@wsddn-lite0_region-tree_s0",
    ]


def test_one_that_was_stopped_goes_on(board: tuple[Path, str]) -> None:
    folder, _ = board
    shutil.rmtree(folder / "runs" / "tiny" / "wsod@wsddn-lite0_region-tree_s0")
    with contextlib.chdir(folder):
        said = done_here(*BOARD, *CHOICE)
    assert said.count("/model.safetensors: fresh") == 1
    assert "wsddn-lite0_region-tree_s0/model.safetensors: 9 images" in said


def test_python_gives_the_figures(board: tuple[Path, str]) -> None:
    folder, _ = board
    texts = {stage: dict(text.split("=", 1) for text in FAST[stage]) for stage in ("propose", "wsod")}
    settings = {
        stage: {key: yaml.safe_load(text) for key, text in item.items()} for stage, item in texts.items()
    }
    with contextlib.chdir(folder):
        found = weaksam.run_leaderboard(
            ["wsddn-lite0"],
            split="trainval",
            settings=settings,
            dataset="tiny",
            profile="embedded",
            quiet=True,
        )
    assert [item.values for item in found] == [{"method": "wsddn-lite0", "proposals": "region-tree"}]
    assert {name.split(" (")[0] for _, _, name in found[0].figures} == FIGURES


def test_every_method_over_every_proposals_with_every_seed(finished: Path) -> None:
    with contextlib.chdir(finished):
        said = done_here(*BOARD, "--proposals", "selective-search,region-tree", "--seeds", "3,5", "--dry-run")
    methods = [name for name in recipe_names("wsod") if name.endswith("-lite0")]
    assert f"leaderboard: {4 * len(methods)} variants" in said
    for method in methods:
        for source in ("selective-search", "region-tree"):
            assert f"wsod@{method}_{source}_s5/model.safetensors" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "oicr-lite1"], "'oicr-lite1' is no recipe of wsod.*did you mean 'oicr-lite0'"),
        (["--methods", "oicr-lite0,oicr-lite0"], "oicr-lite0 stands twice"),
        (["--proposals", "grid"], "'grid' is no recipe of propose"),
        (["--seeds", "x"], "expected whole numbers"),
        (["--set", "pgt.k=1"], "expected stage.key=value"),
    ],
)
def test_what_cannot_be_is_said_first(finished: Path, words: list[str], message: str) -> None:
    with contextlib.chdir(finished):
        result = run_here(*BOARD, *words)
    assert result.exit_code == 2

    assert re.search(message, " ".join(result.output.split())), result.output
