"""Every stage on a tiny dataset, in a folder as it is before the stage, and what the stage is to leave there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz.corpus import TINY_NETWORK
from tests.fuzz.process import end_group, program, start_forked
from tests.tiny import FAST, write_voc
from weaksam_cli.artifacts.fsops import FileOps

_RECEIPT = ".receipt.json"
_TINY = ("--dataset", "tiny")
_IMPORT = (
    "import",
    "theirs.pkl",
    "--format",
    "mmdet",
    "--order",
    "order.txt",
    "--labels",
    "runs/tiny/labels/trainval.json",
)


def _stage(name: str, *more: str) -> tuple[str, ...]:
    sets = [item for setting in FAST[name] for item in ("--set", setting)]
    return (name, *_TINY, "--profile", "embedded", *sets, *more)


COMMANDS: dict[str, tuple[str, ...]] = {
    "data": ("data", "{voc}", *_TINY),
    "cam": _stage("cam"),
    "cam --fit": ("cam", *_TINY, "--variant", "fit", *TINY_NETWORK, "--set", "fit.epochs=2", "--set",
    "fit.batch_size=2", "--fit",
                  "--checkpoint-every", "1"),
    "prompt": _stage("prompt"),
    "propose": _stage("propose"),
    "propose FOLDER": ("propose", "{voc}/JPEGImages", "-o", "folder.h5", "--recipe", "selective-search"),
    "wsod": _stage("wsod", "--checkpoint-every", "4"),
    "pgt": _stage("pgt"),
    "retrain": _stage("retrain", "--checkpoint-every", "1"),
    "eval": _stage("eval"),
    "import": (*_IMPORT, "-o", "imported.h5"),
}  # fmt: skip
"""In the order of the pipeline."""


@dataclass(frozen=True)
class Stage:
    """A command and the folders around it.

    Attributes:
        name: what it is called in tables.
        command: without the number of workers.
        before: the working folder as the command finds it.
        expected: path -> digest of every file that it leaves; receipts hold times, and have none.
        operations: how many file operations it takes.
    """

    name: str
    command: tuple[str, ...]
    before: Path
    expected: dict[str, str]
    operations: int

    def arguments(self, workers: int = 1) -> tuple[str, ...]:
        """With the number of workers, for commands that have such a thing."""
        has_workers = self.command[0] not in ("data", "import") and "--workers" not in self.command
        return (*self.command, "--workers", str(workers)) if has_workers else self.command


def prepare(folder: Path) -> list[Stage]:
    """Run every command once in this process, which imports what they need; keep the folder as it was before each."""
    write_voc(folder / "voc", trainval=4, test=0)
    work, stages = folder / "work", []
    work.mkdir()
    with contextlib.chdir(work):
        for number, (name, words) in enumerate(COMMANDS.items()):
            command = tuple(word.replace("{voc}", str(folder / "voc")) for word in words)
            if name == "import":
                shutil.copy("../voc/ImageSets/Main/trainval.txt", "order.txt")
                _run("export", "runs/tiny/proposals/trainval.h5", "--format", "mmdet", "-o", "theirs.pkl")
            before = shutil.copytree(work, folder / f"before-{number}")
            stage = Stage(name, command, before, {}, 0)
            operations = _counted(partial(_run, *stage.arguments()))
            stages.append(replace(stage, expected=digests(work), operations=operations))
    return stages


def _counted(run: Callable[[], object]) -> int:
    """File operations of what is run in this process."""
    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileOps, "before", lambda _, operation, path: names.append(operation))
        run()
    return len(names)


def _run(*arguments: str) -> None:
    try:
        program([*arguments, "--quiet"])
    except SystemExit as ending:
        assert not ending.code, arguments


def digests(work: Path) -> dict[str, str]:
    """Path -> digest of every file below a folder; "" for receipts."""
    files = [path for path in sorted(work.rglob("*")) if path.is_file()]
    return {path.relative_to(work).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    return "" if path.name.endswith(_RECEIPT) else hashlib.sha256(path.read_bytes()).hexdigest()


def half_artifacts(work: Path) -> list[str]:
    """Artifacts whose receipt says that they are whole, and which are not."""
    found = []
    for receipt in work.rglob(f"*{_RECEIPT}"):
        artifact = receipt.with_name(receipt.name.removesuffix(_RECEIPT))
        try:
            said = json.loads(receipt.read_bytes())["sha256"]
            whole = hashlib.sha256(artifact.read_bytes()).hexdigest() == said
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            found.append(str(artifact.relative_to(work)))
    return sorted(found)


def differences(stage: Stage, work: Path) -> tuple[list[str], list[str]]:
    """After the command has ended well: files that are lost or have other bytes, and files that should not be there."""
    found = digests(work)
    changed = [name for name, digest in stage.expected.items() if found.get(name) != digest]
    return changed, sorted(set(found) - set(stage.expected))


@dataclass(frozen=True)
class Finished:
    """What was found after the command that was killed was given again.

    Attributes:
        half: artifacts that a receipt certified though they were not whole, before the command was given again.
        changed: files that are lost, or have other bytes than after a run that nobody killed.
        left: files that such a run does not leave.
        error: what the command said, when it did not end well.
    """

    half: list[str]
    changed: list[str]
    left: list[str]
    error: str


def finish(stage: Stage, work: Path, log: Path, workers: int = 1) -> Finished:
    """Give the same command again and compare."""
    half = half_artifacts(work)
    code = run_child(lambda: program(stage.arguments(workers)), work, log)
    changed, left = differences(stage, work)
    said = (log / "err-0").read_text(errors="replace")
    return Finished(half, changed, left, f"exit {code}: {said[-500:]}" if code or "Traceback" in said else "")


def run_child(work: Callable[[], object], folder: Path, log: Path) -> int:
    """`work` in a child to its end: its exit code, negative for a signal."""
    status, _ = end_group(start_forked(work, folder, log), kill=False)
    return os.waitstatus_to_exitcode(status)


def kill_at(stage: Stage, k: int, work: Path, log: Path) -> int:
    """The command with SIGKILL at its k-th file operation (counted from 0), a write half way through."""

    def command() -> None:
        count = 0

        def before(_: FileOps, operation: str, path: Path) -> None:
            nonlocal count
            if count == k:
                if operation == "write":
                    path.write_bytes(b"half of a f")
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        FileOps.before = before  # type: ignore[assignment, method-assign]  # in the child alone
        program(stage.arguments())

    return run_child(command, work, log)
