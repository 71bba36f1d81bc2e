"""SIGKILL at every file operation: nothing unreadable, and the same bytes in the end; signals; two commands at once."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.artifacts.helpers import STAGE, context, entries, step
from tests.tiny import start_weaksam, synthetic_cam, weaksam, write_voc
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import receipt_path
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.steps import Step, make

IMAGES = 48


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


PROMPT = ("prompt", "--dataset", "tiny", "--workers", "1")


@dataclass
class KillingOps(FileOps):
    """The process gets SIGKILL at its k-th file operation (counted from 0), a write half way through."""

    kill_at: int = -1
    count: int = 0

    def before(self, operation: str, path: Path) -> None:
        self.count += 1
        if self.count - 1 == self.kill_at:
            if operation == "write":
                path.write_bytes(b"half of a f")
            os.kill(os.getpid(), signal.SIGKILL)


def _operations(item: Step, root: Path) -> int:
    ops = KillingOps()
    make(item, STAGE, context(root, ops))
    return ops.count


def _killed(item: Step, root: Path, k: int) -> None:
    """Make the step in a process that dies at its k-th file operation."""
    child = os.fork()
    if not child:
        make(item, STAGE, context(root, KillingOps(kill_at=k)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("kind", ["rows", "entries"])
def test_killed_at_every_file_operation_it_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    def item(root: Path) -> Step:
        return step(root / "a.h5", broken=("i3",)) if kind == "rows" else entries(root / "a.json")

    whole = item(tmp_path / "whole")
    operations = _operations(whole, tmp_path / "whole")
    expected = whole.path.read_bytes()
    assert operations > 20
    for k in range(operations):
        again = item(tmp_path / f"k{k}")
        _killed(again, tmp_path / f"k{k}", k)
        if receipt_path(again.path).exists():
            assert again.path.read_bytes() == expected, "a receipt stands beside a whole artifact alone"
        make(again, STAGE, context(tmp_path / f"k{k}"))
        assert again.path.read_bytes() == expected
        left = {path.name for path in again.path.parent.iterdir()}
        assert left - {f"{again.path.name}.shards"} == {again.path.name, receipt_path(again.path).name}


def test_two_identical_commands_at_once(prepared: Path, tmp_path: Path) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    assert weaksam(*PROMPT, folder=prepared).returncode == 0
    expected = target.read_bytes()
    for number in range(2):
        target.unlink()
        receipt_path(target).unlink()
        logs = [tmp_path / f"{number}-{name}" for name in "ab"]
        both = [start_weaksam(*PROMPT, folder=prepared, log=log) for log in logs]
        for process in both:
            code, errors = process.ended()
            assert code == 0, errors
        assert target.read_bytes() == expected


def test_the_number_of_workers_does_not_change_the_bytes(prepared: Path) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    found = set()
    for workers in ("1", "2"):
        target.unlink(missing_ok=True)
        receipt_path(target).unlink(missing_ok=True)
        result = weaksam("prompt", "--dataset", "tiny", "--workers", workers, folder=prepared)
        assert result.returncode == 0, result.stderr
        found.add(target.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_its_code_and_keeps_finished_shards(
    prepared: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    target = prepared / "runs" / "tiny" / "prompts" / "trainval.h5"
    target.unlink(missing_ok=True)
    receipt_path(target).unlink(missing_ok=True)
    process = start_weaksam(*PROMPT, folder=prepared, log=tmp_path / "log")
    shards = target.with_name(target.name + ".shards")
    while not list(shards.rglob("*.h5")):
        assert process.is_running()
        time.sleep(0.005)
    process.send(number)
    ended, errors = process.ended()
    assert ended == code
    assert "finished shards are kept" in errors
    assert weaksam(*PROMPT, folder=prepared).returncode == 0
