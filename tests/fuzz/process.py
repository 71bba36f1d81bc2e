"""A command of the program in a process of its own, forked from one that has imported everything, and watched."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 30.0
"""A command that takes longer hangs."""
_ADDRESS_SPACE = 8 << 30
"""More than this beyond what the parent has is refused by the kernel: a bad case must not stop the machine."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; negative: the signal that killed it; None: it was killed after `SECONDS`.
        seconds: wall time.
        memory: bytes at its peak, beyond what the parent had.
        out, err: what it wrote.
    """

    code: int | None
    seconds: float
    memory: int
    out: bytes
    err: bytes


def run_program(arguments: Sequence[str], folder: Path, log: Path) -> Ended:
    """`weaksam ARGUMENTS` in `folder`; `log` is an empty folder for its output."""
    return run_forked(lambda: program(arguments), folder, log)


def run_here(arguments: Sequence[str], folder: Path) -> Ended:
    """The same in this process."""
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    code: object = 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            program(arguments)
        except SystemExit as ending:
            code = ending.code or 0
    seconds = time.monotonic() - start
    return Ended(
        int(code) if isinstance(code, int) else 1,
        seconds,
        0,
        out.getvalue().encode(),
        err.getvalue().encode(),
    )


def program(arguments: Sequence[str]) -> None:
    """The program's own entry point, in this process."""
    from weaksam_cli.cli.app import app

    app([*arguments], prog_name="weaksam")


def run_forked(work: Callable[[], object], folder: Path, log: Path, seconds: float = SECONDS) -> Ended:
    """`work` in a child whose working folder is `folder`; the whole process group is killed after `seconds`."""
    before, start = _resident(), time.monotonic()
    child = start_forked(work, folder, log)
    code = _wait(child, seconds)
    _, status, usage = os.wait4(child, 0)
    return Ended(
        code=os.waitstatus_to_exitcode(status) if code else None,
        seconds=time.monotonic() - start,
        memory=max(0, usage.ru_maxrss * 1024 - before),
        out=(log / "out").read_bytes(),
        err=(log / "err").read_bytes(),
    )


def start_forked(work: Callable[[], object], folder: Path, log: Path) -> int:
    """Begin that, and give the child's process id, which is that of its group, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _be_child(work, folder, log)
    with contextlib.suppress(OSError):  # it may have done so itself, or be gone
        os.setpgid(child, child)
    return child


def _wait(child: int, seconds: float) -> bool:
    """Whether it ended by itself; what is left of its process group ends with it."""
    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], seconds)
    finally:
        os.close(handle)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return bool(ended)


def _be_child(work: Callable[[], object], folder: Path, log: Path) -> None:
    code: object = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        limit = _virtual() + _ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
        code = 0
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(int(code) if isinstance(code, int) else 1)


def _virtual() -> int:
    return _pages(0)


def _resident() -> int:
    return _pages(1)


def _pages(field: int) -> int:
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()
