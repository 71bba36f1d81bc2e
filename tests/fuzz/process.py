"""Commands of the program in a process of their own, forked from one that has imported everything, and watched."""

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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

SECONDS = 30.0
"""A command that takes longer hangs."""
_ADDRESS_SPACE = 8 << 30
"""More than this beyond what the parent has is refused by the kernel: a bad case must not stop the machine."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative: the signal that killed it; None: it was killed after `SECONDS`.
        seconds: wall time.
        memory: bytes at the peak of its process, beyond what the parent had; the last command of a process has it.
        out, err: what it wrote.
    """

    code: int | None
    seconds: float
    memory: int
    out: bytes
    err: bytes


def run_programs(commands: Sequence[Sequence[str]], folder: Path, log: Path) -> list[Ended]:
    """`weaksam COMMAND` for each, in `folder`; `log` is an empty folder for their output."""
    return run_forked([partial(program, command) for command in commands], folder, log)


def run_here(arguments: Sequence[str], folder: Path) -> Ended:
    """The same in this process."""
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _exit_code(partial(program, arguments))
    return Ended(code, time.monotonic() - start, 0, out.getvalue().encode(), err.getvalue().encode())


def program(arguments: Sequence[str]) -> None:
    """The program's own entry point, in this process."""
    from weaksam_cli.cli.app import app

    app([*arguments], prog_name="weaksam")


def run_forked(works: Sequence[Work], folder: Path, log: Path, seconds: float = SECONDS) -> list[Ended]:
    """One after the other in a child, in `folder`; those after one that hangs or dies, in a new child."""
    ended: list[Ended] = []
    while len(ended) < len(works):
        ended += _run_some(works[len(ended) :], folder, log, seconds)
    return ended


def _run_some(works: Sequence[Work], folder: Path, log: Path, seconds: float) -> list[Ended]:
    before = _pages(1)
    reading, writing = os.pipe()

    def all_of_them() -> None:
        for number, work in enumerate(works):
            _redirect(log, number)
            os.write(writing, bytes([_exit_code(work) & 255]))

    child = start_forked(all_of_them, folder, log)
    os.close(writing)
    ended: list[Ended] = []
    died = False
    while not died and len(ended) < len(works):
        start = time.monotonic()
        ready, _, _ = select.select([reading], [], [], seconds)
        told = os.read(reading, 1) if ready else b""
        died = not told
        output = [(log / f"{name}-{len(ended)}") for name in ("out", "err")]
        texts = [path.read_bytes() if path.exists() else b"" for path in output]
        ended.append(Ended(told[0] if told else None, time.monotonic() - start, 0, *texts))
    os.close(reading)
    status, usage = end_group(child, kill=not ready)
    last = replace(ended[-1], memory=max(0, usage.ru_maxrss * 1024 - before))
    if died and ready:
        last = replace(last, code=os.waitstatus_to_exitcode(status))
    return [*ended[:-1], last]


def start_forked(work: Work, folder: Path, log: Path) -> int:
    """Begin that in a child, and give its process id, which is that of its group, too; its output is `log`/out-0, err-0."""
    child = os.fork()
    if not child:
        _be_child(work, folder, log)
    with contextlib.suppress(OSError):  # it may have done so itself, or be gone
        os.setpgid(child, child)
    return child


def end_group(child: int, *, kill: bool) -> tuple[int, resource.struct_rusage]:
    """Wait for the child, after a SIGKILL where that is asked for; what is left of its group ends with it."""
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    return status, usage


def _be_child(work: Work, folder: Path, log: Path) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        _redirect(log, 0)
        limit = _pages(0) + _ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = _exit_code(work)
    finally:
        os._exit(code & 255)


def _redirect(log: Path, number: int) -> None:
    """Standard streams as a shell would give them, their output in files."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        os.dup2(os.open(log / f"{name}-{number}", flags), descriptor)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _exit_code(work: Work) -> int:
    """What the interpreter would end with."""
    code: object = 0
    try:
        work()
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return int(code) if isinstance(code, int) else 1


def _pages(field: int) -> int:
    """Bytes of this process: all that it may address (0), what is in memory (1)."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()
