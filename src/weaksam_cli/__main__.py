"""Entry point of `weaksam` and `python -m weaksam_cli`."""

from __future__ import annotations

import os
import signal
import sys

_STDERR = 2


def main() -> None:
    """Run the command line.

    Numeric libraries get one thread a process unless the user says otherwise: on shared cores that is faster, and results do
    not depend on the number of cores. Stages that train ask torch for more.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    _open_standard_streams()
    # Help for a reader who has left ends as in other tools; a command that works is told by an exception (see `guarded`).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    from weaksam_cli.cli.app import app
    from weaksam_cli.console import Console, Mode, mute
    from weaksam_cli.errors import ExitCode

    try:
        app(prog_name="weaksam")
    except OSError as error:  # commands explain their own: help or a usage error cannot be written
        Console(Mode.QUIET).error(f"stdout: cannot be written: {error.strerror}")
        for stream in (sys.stdout, sys.stderr):
            mute(stream)
        sys.exit(ExitCode.USER)


def _open_standard_streams() -> None:
    """Let those that the caller closed lead nowhere: else the next file that is opened takes their number and their text."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(number)


if __name__ == "__main__":
    main()
