"""How a command ends: the exit code and the one line that explains it."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from weaksam_cli.console import Console
from weaksam_cli.errors import ExitCode, UserError


class _TerminatedError(BaseException):
    """SIGTERM arrived; the shard in progress is given up."""


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


@contextmanager
def guarded(console: Console) -> Iterator[None]:
    """Turn what a command raises into one line on stderr and an exit code (see README, "Exit codes")."""
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except UserError as error:
        console.error(error.one_line())
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Python flushes stdout at exit and would complain about the closed pipe once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except KeyboardInterrupt:
        console.error("interrupted; finished shards are kept, the same command goes on from there")
        sys.exit(ExitCode.INTERRUPTED)
    except _TerminatedError:
        console.error("terminated; finished shards are kept, the same command goes on from there")
        sys.exit(ExitCode.TERMINATED)
    except OSError as error:
        console.error(
            f"{error.filename or 'file system'}: {error.strerror or error}. Finished shards are kept"
        )
        sys.exit(ExitCode.USER)
    except Exception:
        traceback.print_exc()
        console.error("this is a bug in weaksam; please report it with the lines above")
        sys.exit(ExitCode.BUG)
    finally:
        signal.signal(signal.SIGTERM, previous)
