"""Arrays of jobs as processes of this machine: preempted, killed, left by their command: the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.artifacts.helpers import STAGE, context
from tests.engine.elsewhere import SHARD, computed, expect_progress, traced_step, wait_for, whole
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.engine.executors.choice import choose_executor
from weaksam_cli.engine.executors.slurm import SlurmExecutor, _Left, _left
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import UserError

IMAGES = 60
ROOT = Path(__file__).parents[2]
LOCAL = ("cluster=local", "cpus=1")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    yield


def start(folder: Path, seconds: float, deadly: str = "", jobs: int = 2) -> subprocess.Popen[str]:
    """A command that makes the artifact of a folder in jobs, in a process group of its own."""
    words = ["slurm", folder, IMAGES, seconds, deadly, jobs, *LOCAL]
    command = [sys.executable, "-m", "tests.engine.elsewhere", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def processes_of(parent: int) -> list[int]:
    """Of a process, and of those that it has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *(process for child in children for process in processes_of(int(child)))]


@pytest.mark.slow
def test_a_job_is_preempted_and_another_killed(tmp_path: Path) -> None:
    expected, folder = whole(tmp_path / "whole", IMAGES), tmp_path / "made"
    folder.mkdir()
    # No whole shard between two words of a job, which are 0.2 s apart.
    process = start(folder, 0.07, deadly="i21")
    wait_for(folder, 2 * SHARD, processes=2)
    (one, *_) = [number for number in processes_of(process.pid)[1:] if "_submit" in command_of(number)]
    os.kill(one, signal.SIGUSR2)
    said = ended(process)
    assert (folder / "killed").exists()
    assert (folder / "a.h5").read_bytes() == expected
    found = computed(folder)
    assert len(found) == IMAGES
    assert found.total() - IMAGES <= 2 * SHARD
    assert "another array makes" in said
    expect_progress(said, IMAGES)
    assert sorted(path.name for path in folder.glob("a.h5*")) == ["a.h5", "a.h5.receipt.json"]


def test_what_is_left_are_images_and_not_shards(tmp_path: Path) -> None:
    work: Any = SimpleNamespace(ops=FileOps())
    often, seldom = _Left(work, tmp_path / "0.left", 10, 0.0), _Left(work, tmp_path / "4.left", 6, 3600.0)
    often(0, 0)
    seldom(0, 0)
    seen = [_left(tmp_path)]
    for told, images in ((often, 3), (seldom, 1), (often, 7), (seldom, 5)):
        told(images, 0)
        seen.append(_left(tmp_path))
    assert seen == [16, 13, 13, 6, 0], "the last image is told at once"


def command_of(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.slow
def test_a_killed_command_that_is_given_again_does_the_rest(tmp_path: Path) -> None:
    expected, folder = whole(tmp_path / "whole", IMAGES), tmp_path / "made"
    folder.mkdir()
    first = start(folder, 0.05)
    wait_for(folder, 4 * SHARD)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (folder / "a.h5").exists()
    assert "images are done" in ended(start(folder, 0.0))
    assert (folder / "a.h5").read_bytes() == expected
    found = computed(folder)
    assert len(found) == IMAGES
    assert found.total() - IMAGES <= 2 * SHARD


def test_without_slurm_and_without_gpus_the_message_says_so(tmp_path: Path) -> None:
    told = context(tmp_path, executor=choose_executor("slurm", [], 0))
    with pytest.raises(
        UserError, match=r'--executor slurm: the jobs cannot be submitted: Could not detect "srun"'
    ):
        make(traced_step(tmp_path, 5), STAGE, told)
    with pytest.raises(UserError, match=r"--device cuda: the jobs have no GPUs\. Give --executor-set gpus=1"):
        told.executor.device("cuda")


@pytest.mark.parametrize(
    ("gpus", "asked", "expected"),
    [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (1, "cuda", "cuda")],
)
def test_the_device_is_that_of_the_jobs(gpus: int, asked: str, expected: str) -> None:
    chosen = choose_executor("slurm", [f"gpus={gpus}"], 0)
    assert isinstance(chosen, SlurmExecutor)
    assert chosen.device(asked) == expected
