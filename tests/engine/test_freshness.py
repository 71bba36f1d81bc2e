"""One rule of freshness, for `status` and the stages alike: what changed is named, a stale input stops the stage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.artifacts.helpers import SCHEMA, STAGE, Knob, context, step
from tests.tiny import run_stage, weaksam, write_voc
from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.engine import freshness
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.freshness import Freshness, State
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.steps import Step, make, preview
from weaksam_cli.errors import IncompleteError, UserError


def write(job: Job) -> Outcome:
    """An artifact that says what it was made from."""
    job.context.ops.write_atomically(job.path, json.dumps(job.attributes()["inputs"]).encode())
    return Outcome(1)


def chain(root: Path, outside: Path) -> tuple[Step, Step, Step]:
    """`a` from a file outside of the run, `b` from `a`, `c` from `b`."""
    a, b, c = (root / "cam" / f"{name}.json" for name in "abc")
    first = Step(a, SCHEMA, "s", Knob(), {"weights": outside}, write, "a")
    return first, replace(first, path=b, inputs={"a": a}), replace(first, path=c, inputs={"b": b})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, tuple[Step, Step, Step]]:
    outside = tmp_path / "weights" / "network.pth"
    outside.parent.mkdir()
    outside.write_bytes(b"first")
    root = tmp_path / "run"
    steps = chain(root, outside)
    for item in steps:
        make(item, STAGE, context(root))
    return root, steps


def states(root: Path, steps: tuple[Step, ...]) -> list[State]:
    looked = Freshness(root)
    return [looked.of(item.path).state for item in steps]


FRESH, STALE = State.FRESH, State.STALE


def test_what_is_made_from_a_weights_file_is_fresh(made: tuple[Path, tuple[Step, Step, Step]]) -> None:
    """`status` showed anything made from weights as stale for ever: it looked for them in the run directory."""
    root, steps = made
    assert states(root, steps) == [FRESH, FRESH, FRESH]
    recorded = read_receipt(steps[0].path)
    assert recorded is not None
    assert Path(recorded.identity.inputs["weights"].path).is_absolute()


@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        (lambda steps: steps[0].inputs["weights"].write_bytes(b"other"), [STALE] * 3, "network.pth changed"),
        (lambda steps: steps[0].inputs["weights"].unlink(), [STALE] * 3, "network.pth is missing"),
        (lambda steps: steps[1].path.write_bytes(b""), [FRESH, STALE, STALE], "size"),
        (lambda steps: steps[2].path.unlink(), [FRESH, FRESH, State.MISSING], ""),
    ],
)
def test_what_follows_from_something_stale_is_stale(
    made: tuple[Path, tuple[Step, Step, Step]],
    change: Callable[[tuple[Step, ...]], object],
    expected: list[State],
    reason: str,
) -> None:
    root, steps = made
    change(steps)
    assert states(root, steps) == expected
    first = next((item for item, state in zip(steps, expected, strict=True) if state is STALE), None)
    assert first is None or reason in Freshness(root).of(first.path).reasons[0]


def test_weights_that_did_not_change_are_not_read_again(
    made: tuple[Path, tuple[Step, Step, Step]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, steps = made
    monkeypatch.setattr(digest, "of_file", lambda path: pytest.fail("read"))
    assert states(root, steps) == [FRESH, FRESH, FRESH]
    os.utime(steps[0].inputs["weights"])
    with pytest.raises(pytest.fail.Exception):
        states(root, steps)


def test_another_file_of_the_same_size_and_time_is_read(made: tuple[Path, tuple[Step, Step, Step]]) -> None:
    """Weights out of one archive may share both; what was found of one file says nothing about the other."""
    root, (first, *_) = made
    one = first.inputs["weights"]
    other = one.with_name("other.pth")
    other.write_bytes(b"FIRST")
    moment = one.stat().st_mtime_ns
    os.utime(other, ns=(moment, moment))
    found = preview(replace(first, inputs={"weights": other}), STAGE, context(root))
    assert not isinstance(found, UserError)
    assert (found.state, found.reasons) == (STALE, (f"input {other} changed",))


def test_after_a_rise_of_the_stage_s_version_it_is_stale(
    made: tuple[Path, tuple[Step, Step, Step]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, steps = made
    risen = replace(load_stage("cam"), version=load_stage("cam").version + 1)
    monkeypatch.setattr(freshness, "load_stage", lambda name: risen)
    found = Freshness(root).of(steps[0].path)
    assert (found.state, found.reasons) == (STALE, (f"the stage's version: 1 -> {risen.version}",))


def test_a_stale_input_stops_the_stage_unless_it_is_allowed(
    made: tuple[Path, tuple[Step, Step, Step]],
) -> None:
    root, (first, _, third) = made
    changed = replace(first, settings=Knob(knob=2))
    make(changed, STAGE, context(root, overwrite=True))
    make(
        first, STAGE, context(root, overwrite=True)
    )  # other bytes than before only if `a` holds its settings
    first.inputs["weights"].write_bytes(b"other")
    with pytest.raises(
        UserError, match=r"input cam/b.json is stale \(input cam/a.json is stale .*--allow-stale"
    ):
        make(third, STAGE, context(root))
    found = preview(third, STAGE, context(root))
    assert not isinstance(found, UserError)
    assert found.state is STALE, "a dry run says the same"
    assert make(third, STAGE, context(root, allow_stale=True)) == read_receipt(third.path)


def test_strict_counts_on_a_fresh_artifact_too(tmp_path: Path) -> None:
    item = step(tmp_path / "cam" / "a.h5", broken=("i1",))
    make(item, STAGE, context(tmp_path))
    with pytest.raises(IncompleteError, match="1 of 11 images failed"):
        make(item, STAGE, context(tmp_path, strict=True))


def test_a_changed_label_stops_every_later_stage(tmp_path: Path) -> None:
    """The stages read what was made from old labels without a word, and `status` called the result fresh."""
    voc = write_voc(tmp_path / "voc", trainval=3, test=0)
    assert weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path).returncode == 0
    for stage in ("cam", "prompt"):
        run_stage(tmp_path, stage)
    xml = voc / "Annotations" / "000001.xml"
    xml.write_text(xml.read_text().replace("blue one", "green one"))
    assert weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path).returncode == 0
    result = weaksam("propose", "--dataset", "tiny", "--recipe", "region-tree", folder=tmp_path)
    assert result.returncode == 2
    assert "input prompts/trainval.h5 is stale" in result.stderr
    table = weaksam("status", "--dataset", "tiny", folder=tmp_path).stdout
    rows = {words[0]: words[1] for line in table.splitlines() if len(words := line.split()) > 1}
    assert rows["labels/trainval.json"] == "fresh"
    assert {rows["cam/trainval.h5"], rows["prompts/trainval.h5"]} == {"stale"}
    allowed = ("--recipe", "region-tree", "--allow-stale")
    result = weaksam("propose", "--dataset", "tiny", *allowed, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "read all the same" in result.stderr
