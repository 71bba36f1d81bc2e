"""Trainings in several processes, as a user starts them: the weights are those of one process that takes the same parts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tiny import FAST, run_here, run_stage, weaksam_alone
from weaksam_cli.training.checkpoint import read_tensors

PARTS = ("--set", "schedule.images_at_once=1", "--set", "schedule.batch_size=2")
LONGER = ("--set", "schedule.min_iterations=12", "--checkpoint-every", "1")
COMMON = ("--dataset", "tiny", "--profile", "embedded", "--workers", "1", "--device", "cpu")


def words(stage: str, *more: str) -> list[str]:
    sets = [item for setting in FAST[stage] for item in ("--set", setting)]
    return [stage, *COMMON, *sets, *PARTS, *more, "--variant", "parts"]


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "runs/tiny" / f"{stage}@parts" / "model.safetensors")


def expect_equal(first: Path, second: Path, stage: str) -> None:
    one, other = weights(first, stage), weights(second, stage)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)


@pytest.fixture(scope="module")
def alone(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("alone") / "work")


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What several make."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("gpus") / "work")


def test_two_processes_are_killed_and_one_goes_on(folder: Path, alone: Path) -> None:
    run_stage(alone, "retrain", *PARTS, *LONGER, "--variant", "parts")
    command = [sys.executable, "-m", "weaksam_cli", *words("retrain", *LONGER), "--gpus", "2"]
    environment = {**os.environ, "WEAKSAM_WEIGHTS": ""}
    started = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    places = folder / "runs/tiny/retrain@parts"
    deadline = time.monotonic() + 120
    while not list(places.glob("*.shards/*/checkpoint.pt")) and time.monotonic() < deadline:
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()
    assert list(places.glob("*.shards/*/checkpoint.pt")) and not (places / "model.safetensors").exists()
    run_stage(folder, "retrain", *PARTS, *LONGER, "--variant", "parts")
    expect_equal(folder, alone, "retrain")


def test_torchrun_starts_them_too(folder: Path, alone: Path) -> None:
    run_stage(alone, "wsod", *PARTS, "--variant", "parts")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "weaksam_cli", *words("wsod")],
        cwd=folder, env={**os.environ, "WEAKSAM_WEIGHTS": ""}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wsod: recipe oicr-lite0") == 1  # one of them speaks
    expect_equal(folder, alone, "wsod")


def test_class_token_transformers_take_parts_too(folder: Path, alone: Path) -> None:
    sets = (
        "fit.network={width: 16, depth: 1, patch: 16}", "fit.crop=32", "fit.epochs=1", "fit.batch_size=2",
        "fit.images_at_once=1", "fit.drop_path=0.2", "cross_layers=[]", "class_layers=1", "heads=2",
    )  # fmt: skip
    command = ["cam", *COMMON, "--recipe", "vit-tiny", "--variant", "parts"]
    command += [item for setting in sets for item in ("--set", setting)]
    with contextlib.chdir(alone):
        assert run_here(*command).exit_code == 0
    result = weaksam_alone(*command, "--gpus", "2", folder=folder)
    assert result.returncode == 0, result.stderr
    models = [place / "runs/tiny/cam@parts/model.pth" for place in (alone, folder)]
    one, other = (torch.load(path, weights_only=True)["model"] for path in models)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)


def test_what_cannot_be_shared_is_said_and_ends_all(folder: Path) -> None:
    batch = ("--set", "schedule.batch_size=3", "--overwrite")
    result = weaksam_alone(*words("wsod", *batch), "--gpus", "2", folder=folder)
    assert result.returncode == 2
    assert "a batch of 3 cannot be shared by 2 processes" in result.stderr
    assert "bug" not in result.stderr


def test_an_error_of_the_first_ends_the_others_without_a_word(folder: Path) -> None:
    result = weaksam_alone(*words("retrain", "--seed", "5"), "--gpus", "2", folder=folder)
    assert (result.returncode, result.stderr.count("error: ")) == (2, 1), result.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["status", "--dataset", "tiny"], "this command works in one process"),
        (["retrain", "--dataset", "tiny", "--device", "cuda:1"], "2 processes cannot share cuda:1"),
    ],
)
def test_what_is_no_work_for_several(
    folder: Path, command: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }
    for name, value in several.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with contextlib.chdir(folder):
        result = run_here(*command)
    assert result.exit_code == 2
    assert message in result.output


def test_a_dry_run_needs_one_process(folder: Path) -> None:
    with contextlib.chdir(folder):
        result = run_here(*words("retrain", "--seed", "7"), "--gpus", "2", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "retrain@parts/model.safetensors: stale" in result.output
