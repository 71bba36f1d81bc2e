"""`import weaksam_cli as weaksam`: light, typed, and the same work as the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import weaksam_cli as weaksam
from tests.artifacts.helpers import STAGE, context, step
from tests.tiny import write_voc
from weaksam_cli.engine.steps import make


def test_the_import_is_light() -> None:
    code = (
        "import sys, weaksam_cli; assert 'load_detector' in dir(weaksam_cli); "
        "print({'numpy', 'typer', 'torch', 'pydantic'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
    assert all(callable(getattr(weaksam, name)) for name in weaksam.__all__)
    with pytest.raises(AttributeError, match="no attribute 'run_cma'"):
        weaksam.run_cma  # noqa: B018


def test_functions_do_what_the_commands_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")
    write_voc(tmp_path / "voc", trainval=2, test=0)
    weaksam.run_data("voc", dataset="tiny", quiet=True)
    assert (tmp_path / "runs" / "tiny" / "labels" / "trainval.json").is_file()
    few = {"grid_boxes": 3, "clues": {"sources": []}}
    files = weaksam.run_propose(dataset="tiny", recipe="region-tree", settings=few, quiet=True)
    assert files == {"trainval": Path("runs/tiny/proposals/trainval.h5")}
    with weaksam.open_artifact(files["trainval"]) as artifact:
        assert artifact.attributes["recipe"]["grid_boxes"] == 3
    some = weaksam.run_propose("voc/JPEGImages", "p.h5", settings={"grid_boxes": 3}, quiet=True)
    assert some == {"all": Path("p.h5")}
    with pytest.raises(weaksam.UserError, match="did you mean 'grid_boxes'"):
        weaksam.run_propose(dataset="tiny", recipe="region-tree", settings={"grid_boxs": 3}, quiet=True)
    with pytest.raises(TypeError, match="no argument 'data_set'"):
        weaksam.run_propose(data_set="tiny")  # type: ignore[call-arg]


def test_a_notebook_shows_what_is_in_an_artifact(tmp_path: Path) -> None:
    made = step(tmp_path / "<b>.h5", broken=("i3",))
    make(made, STAGE, context(tmp_path))
    with weaksam.open_artifact(made.path) as artifact:
        shown = artifact._repr_html_()
    assert "&lt;b&gt;.h5" in shown
    assert "<b>" not in shown
    assert "1 failed" in shown
