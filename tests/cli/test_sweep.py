"""`weaksam sweep` on a tiny run: what is shared, resumed, refused and told."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import weaksam_cli as weaksam
from tests.tiny import FAST, done_here, run_here

SETS = [word for text in FAST["retrain"] for word in ("--set", f"retrain.{text}")]
PGT = ["sweep", "pgt", "--dataset", "tiny", "--profile", "embedded", "--workers", "1"]
GRID = ["--grid", "score_threshold=0.2,0.3", "--until", "retrain", "--split", "test", *SETS]


@pytest.fixture(scope="module")
def swept(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the finished run with two variants of pgt and retrain, and what the sweep said."""
    folder = tmp_path_factory.mktemp("swept") / "work"
    shutil.copytree(finished, folder)
    with contextlib.chdir(folder):
        return folder, done_here(*PGT, *GRID, "-o", "figures.csv")


def test_a_variant_is_what_differs_and_the_rest_is_shared(swept: tuple[Path, str]) -> None:
    folder, said = swept
    run = folder / "runs" / "tiny"
    names = ["score_threshold-0.2_s0", "score_threshold-0.3_s0"]
    assert sorted(path.name for path in run.glob("*@*")) == sorted(
        f"{stage}@{name}" for stage in ("pgt", "retrain") for name in names
    )
    assert "pgt@score_threshold-0.3_s0/trainval.json: the same as pgt/trainval.json, shared" in said
    assert f"retrain@{names[1]}/model.safetensors: the same as retrain" in said
    assert len(re.findall(r"^training: ", said, re.MULTILINE)) == 1


def test_it_ends_with_a_table_and_a_file(swept: tuple[Path, str]) -> None:
    folder, said = swept
    assert "tiny test: mean ± standard deviation over seeds, shares in percent" in said
    rows = list(csv.DictReader((folder / "figures.csv").open()))
    assert {row["score_threshold"] for row in rows} == {"0.2", "0.3"}
    found = {(row["stage"], row["metric"]): row["mean"] for row in rows if row["score_threshold"] == "0.3"}
    results = json.loads((folder / "runs/tiny/eval/test.json").read_text())["metrics"]
    plain = next(item for item in results if item["stage"] == "retrain" and not item["variant"])
    assert float(found["retrain", plain["name"]]) == plain["value"]


def test_python_gives_the_figures_of_both_detectors_too(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    pairs = (text.split("=", 1) for text in FAST["retrain"])
    settings = {"retrain": {key: yaml.safe_load(value) for key, value in pairs}}
    with contextlib.chdir(folder):
        found = weaksam.run_sweep(
            "pgt", {"score_threshold": [0.2, 0.3]}, until="retrain", split="test", settings=settings,
            dataset="tiny", profile="embedded", quiet=True,
        )  # fmt: skip
    assert [item.values for item in found] == [{"score_threshold": 0.2}, {"score_threshold": 0.3}]
    stages = {stage for item in found for _, stage, _ in item.figures}
    assert stages == {"retrain", "both"}  # pseudo ground truth has no figures of the test split


def test_again_nothing_is_done_and_json_tells_all(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    with contextlib.chdir(folder):
        events = [json.loads(line) for line in done_here(*PGT, *GRID, "--json").splitlines()]
    states = [event.get("state") for event in events if "artifact" in event]
    assert states and set(states) == {"fresh"}
    sweep = events[-1]["sweep"]
    assert [item["settings"] for item in sweep] == [{"score_threshold": 0.2}, {"score_threshold": 0.3}]
    assert all(figure["mean"] is not None for item in sweep for figure in item["figures"][:1])


def test_a_seed_is_that_of_its_variant(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    with contextlib.chdir(folder):
        said = done_here(*PGT, "--seeds", "0,7")
    receipt = json.loads((folder / "runs/tiny/pgt@s7/trainval.json.receipt.json").read_text())
    assert receipt["identity"]["seed"] == 7
    assert "pgt@s0/trainval.json: the same as pgt/trainval.json, shared" in said
    assert "precision at IoU 0.5" in said


def test_a_run_of_another_seed_is_evaluated_all_the_same(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    with contextlib.chdir(folder):
        assert "precision at IoU 0.5" in done_here(*PGT, "--seeds", "0", "--seed", "5")
    receipt = json.loads((folder / "runs/tiny/eval/trainval.json.receipt.json").read_text())
    assert receipt["identity"]["seed"] == 0


def test_a_dry_run_makes_nothing(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    with contextlib.chdir(folder):
        said = done_here(*PGT, "--grid", "score_threshold=0.3,0.4", "--dry-run", "--variant", "base")
    assert "pgt@base_score_threshold-0.4_s0/trainval.json" in said
    assert not list((folder / "runs" / "tiny").glob("pgt@base*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pgtt", "--seeds", "0"], "did you mean 'pgt'? Allowed: cam, prompt, propose, wsod, pgt, retrain"),
        (["pgt"], "expected --grid, --seeds or both"),
        (["pgt", "--seeds", "0", "--until", "wsod"], "'wsod' is not pgt or a stage after it"),
        (["pgt", "--grid", "score=1"], "unknown key 'score', did you mean"),
        (
            ["pgt", "--grid", "score_threshold=-1"],
            "--grid score_threshold=-1: score_threshold: Input should be greater",
        ),
        (["pgt", "--seeds", "0", "--split", "val"], "dataset 'tiny' has no split 'val'"),
        (["pgt", "--seeds", "0", "--set", "retrain.x=1"], "expected stage.key=value, got 'retrain.x=1'"),
        (["pgt", "--seeds", "0", "-o", "weaksam.txt"], "weaksam.txt: this is no table of a sweep"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    swept: tuple[Path, str], arguments: list[str], message: str
) -> None:
    folder, _ = swept
    (folder / "weaksam.txt").write_text("mine")
    with contextlib.chdir(folder):
        result = run_here("sweep", *arguments, "--dataset", "tiny", "--profile", "embedded")
    assert result.exit_code == 2
    assert message in result.output
