"""SIGKILL at file operations of every stage: the same command then ends with the same bytes. `make kill` takes every one."""

from __future__ import annotations

import gc
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kill.stages import (
    COMMANDS,
    Finished,
    Stage,
    differences,
    finish,
    half_artifacts,
    kill_at,
    prepare,
)

EVERY = ("data", "pgt", "import")
"""Killed at each of their operations; of the others at some, by the time that they take."""
SAMPLE = 3


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    """By name; by then everything is imported, and what this process has stays as it is for its children."""
    made = prepare(tmp_path_factory.mktemp("kill"))
    gc.freeze()
    yield {stage.name: stage for stage in made}
    gc.unfreeze()


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_file_operation_it_goes_on_to_the_same_bytes(
    stages: dict[str, Stage], tmp_path: Path, name: str
) -> None:
    stage, work = stages[name], tmp_path / "work"
    assert stage.operations > 7
    step = 1 if name in EVERY else -(-stage.operations // SAMPLE)
    for k in range(step // 2, stage.operations, step):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(stage.before, work)
        assert kill_at(stage, k, work, tmp_path) == -signal.SIGKILL
        assert finish(stage, work, tmp_path) == Finished([], [], [], ""), f"killed at operation {k}"


def test_half_artifacts_and_differences_are_seen(stages: dict[str, Stage], tmp_path: Path) -> None:
    stage, work = stages["prompt"], tmp_path / "work"
    shutil.copytree(stage.before, work)
    assert finish(stage, work, tmp_path) == Finished([], [], [], "")
    points = work / "runs" / "tiny" / "prompts" / "trainval.h5"
    points.write_bytes(points.read_bytes()[:-1])
    (work / "runs" / "tiny" / "rest.tmp").touch()
    place = "runs/tiny/prompts/trainval.h5"
    assert half_artifacts(work) == [place]
    assert differences(stage, work) == ([place], ["runs/tiny/rest.tmp"])
