"""SIGKILL a running stage at random moments, again and again: nothing unreadable, and the same bytes in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.artifacts.helpers import STAGE, context
from tests.tiny import synthetic_cam, weaksam, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.receipt import receipt_path
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.steps import make

KILLS = int(os.environ.get("WEAKSAM_TEST_KILLS", "40"))
IMAGES = 160


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a dataset, its labels, and class activation maps."""
    folder = tmp_path_factory.mktemp("kill")
    write_voc(folder / "voc", trainval=IMAGES, test=0, size=(120, 160))
    result = weaksam("data", "voc", "--dataset", "tiny", folder=folder)
    assert result.returncode == 0, result.stderr
    run = folder / "runs" / "tiny"
    keys = read_labels(run / "labels" / "trainval.json", folder / "voc" / "JPEGImages").keys
    maps = synthetic_cam(run / "cam" / "trainval.h5", keys, (120, 160))
    make(maps, STAGE, context(run, dataset="tiny"))
    return folder


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "weaksam_cli", "prompt", "--dataset", "tiny", "--workers", "1"]


def _killed_after(folder: Path, seconds: float) -> bool:
    """Run the stage and kill it; False when it ended by itself before."""
    process = subprocess.Popen(
        _command(folder), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False


def test_killed_at_random_moments(prepared: Path) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    start = time.monotonic()
    assert weaksam("prompt", "--dataset", "tiny", "--workers", "1", folder=prepared).returncode == 0
    whole_seconds = time.monotonic() - start
    expected = target.read_bytes()
    generator = random.Random(0)
    kills = 0
    while kills < KILLS:
        target.unlink(missing_ok=True)
        receipt_path(target).unlink(missing_ok=True)
        for _ in range(4):
            killed = _killed_after(prepared, generator.uniform(0.25, 1.0) * whole_seconds)
            kills += killed
            if receipt_path(target).exists():
                open_artifact(target).close()
            if not killed:
                break
        result = weaksam("prompt", "--dataset", "tiny", "--workers", "1", folder=prepared)
        assert result.returncode == 0, result.stderr
        assert target.read_bytes() == expected
        assert not list(target.parent.glob("*.shards")), "shards are removed in the end"
        assert not list(target.parent.glob(".*.tmp")), "temporary files of killed processes are removed"


def test_two_identical_commands_at_once(prepared: Path) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    assert weaksam("prompt", "--dataset", "tiny", folder=prepared).returncode == 0
    expected = target.read_bytes()
    for _ in range(3):
        target.unlink()
        receipt_path(target).unlink()
        both = [
            subprocess.Popen(_command(prepared), cwd=prepared, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in both:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        assert target.read_bytes() == expected


def test_the_number_of_workers_does_not_change_the_bytes(prepared: Path) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    found = set()
    for workers in ("1", "2", "3"):
        target.unlink(missing_ok=True)
        receipt_path(target).unlink(missing_ok=True)
        result = weaksam("prompt", "--dataset", "tiny", "--workers", workers, folder=prepared)
        assert result.returncode == 0, result.stderr
        found.add(target.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_its_code_and_keeps_finished_shards(
    prepared: Path, number: signal.Signals, code: int
) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    target.unlink(missing_ok=True)
    receipt_path(target).unlink(missing_ok=True)
    process = subprocess.Popen(_command(prepared), cwd=prepared, stderr=subprocess.PIPE, text=True)
    shards = target.with_name(target.name + ".shards")
    while not list(shards.rglob("*.h5")):
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "finished shards are kept" in errors
    assert weaksam("prompt", "--dataset", "tiny", folder=prepared).returncode == 0
