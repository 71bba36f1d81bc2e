"""What another variant has made of the same work is taken over, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.artifacts.helpers import STAGE, Knob, context, step
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.freshness import Freshness, State
from weaksam_cli.engine.steps import Step, make


def refuse(job: Job) -> Outcome:
    raise AssertionError(f"{job.path} is computed")


def at(step: Step, root: Path, folder: str) -> Step:
    return replace(step, path=root / folder / "trainval.h5")


@pytest.mark.parametrize(("made", "wanted"), [("cam", "cam@b"), ("cam@a", "cam@b"), ("cam@a", "cam")])
def test_equal_work_is_done_once(tmp_path: Path, made: str, wanted: str) -> None:
    work = step(tmp_path / "x")
    first = make(at(work, tmp_path, made), STAGE, context(tmp_path))
    second = make(replace(at(work, tmp_path, wanted), run=refuse), STAGE, context(tmp_path))
    assert second.sha256 == first.sha256
    assert (tmp_path / wanted / "trainval.h5").read_bytes() == (tmp_path / made / "trainval.h5").read_bytes()
    assert Freshness(tmp_path).of(tmp_path / wanted / "trainval.h5").state is State.FRESH


@pytest.mark.parametrize("change", ["settings", "seed", "overwrite", "damaged", "failed", "folder"])
def test_other_work_is_done_again(tmp_path: Path, change: str) -> None:
    broken = ("i1",) if change == "failed" else ()
    folder = "came" if change == "folder" else "cam@a"
    make(at(step(tmp_path / "x", broken=broken), tmp_path, folder), STAGE, context(tmp_path))
    if change == "damaged":
        path = tmp_path / folder / "trainval.h5"
        path.write_bytes(bytes(path.stat().st_size))
    work = replace(step(tmp_path / "x"), settings=Knob(knob=2 if change == "settings" else 1))
    told = context(tmp_path, seed=int(change == "seed"), overwrite=change == "overwrite")
    assert make(at(work, tmp_path, "cam@b"), STAGE, told).images == 11


def test_without_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", no_link)
    work = step(tmp_path / "x")
    make(at(work, tmp_path, "cam"), STAGE, context(tmp_path))
    make(replace(at(work, tmp_path, "cam@b"), run=refuse), STAGE, context(tmp_path))
    assert (tmp_path / "cam@b" / "trainval.h5").stat().st_nlink == 1


def test_the_receipt_is_about_the_new_place(tmp_path: Path) -> None:
    work = step(tmp_path / "x")
    for folder in ("cam", "cam@b"):
        inside = tmp_path / folder / "one.json"
        inside.parent.mkdir(exist_ok=True)
        make(replace(work, path=inside.with_name("a.h5")), STAGE, context(tmp_path))
        later = replace(work, path=inside.with_name("b.h5"), inputs={"cam-a": inside.with_name("a.h5")})
        make(later, STAGE, context(tmp_path))
    receipt = read_receipt(tmp_path / "cam@b" / "b.h5")
    assert receipt is not None and receipt.identity.inputs["cam-a"].path == "cam@b/a.h5"
