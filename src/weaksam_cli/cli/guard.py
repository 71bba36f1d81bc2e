"""How a command ends: the exit code and the one line that explains it."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from weaksam_cli.console import Console, mute
from weaksam_cli.errors import ExitCode, UserError

_AGAIN_SECONDS = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SMALLER = "Give fewer --workers, a smaller batch or smaller images"


class _TerminatedError(BaseException):
    """SIGTERM arrived; the shard in progress is given up."""


_STOPS: Mapping[int, type[BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: _TerminatedError,
}


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM raise, and raise again until the exception is on its way.

    Python drops an exception that a signal handler raises while a finaliser, a weak reference's callback or a callback
    from C runs, and the command would go on to its end.
    """
    left = threading.Event()
    repeaters: list[threading.Thread] = []

    def repeat(number: int) -> None:
        while not left.wait(_AGAIN_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def stop(number: int, _: FrameType | None) -> None:
        # While blocks are left because of the exception, it is the one being handled.
        if isinstance(sys.exception(), tuple(_STOPS.values())):
            return
        if not repeaters:
            repeaters.append(threading.Thread(target=repeat, args=(number,), daemon=True))
            repeaters[0].start()
        raise _STOPS[number]

    previous = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        left.set()
        for repeater in repeaters:
            repeater.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def guarded(console: Console) -> Iterator[None]:
    """Turn what a command raises into one line on stderr and an exit code (see docs/troubleshooting.md)."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        try:
            with _stoppable():
                yield
        except (Exception, KeyboardInterrupt, _TerminatedError) as error:
            sys.exit(_explain(error, console))
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            mute(stream)
        sys.exit(ExitCode.BROKEN_PIPE)


def _is_memory(error: BaseException) -> bool:
    """numpy has an exception of its own for it; torch says it in words, on a CPU and on CUDA."""
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(item in str(error) for item in words)


def _explain(error: BaseException, console: Console) -> ExitCode:
    kept = "finished shards are kept, the same command goes on from there"
    match error:
        case UserError():
            console.error(error.one_line())
            return error.exit_code
        case BrokenPipeError():
            raise error
        case KeyboardInterrupt():
            console.error(f"interrupted; {kept}")
            return ExitCode.INTERRUPTED
        case _TerminatedError():
            console.error(f"terminated; {kept}")
            return ExitCode.TERMINATED
        case OSError():
            why = f"{error.filename or 'file system'}: {error.strerror or error}"
            console.error(f"{why}. Finished shards are kept" if error.errno in _FULL else why)
            return ExitCode.USER
        case MemoryError() | RuntimeError() if _is_memory(error):
            console.error(f"the memory of this machine does not suffice ({error}). {_SMALLER}")
            return ExitCode.USER
    traceback.print_exception(error)
    console.error("this is a bug in weaksam; please report it with the lines above")
    return ExitCode.BUG
