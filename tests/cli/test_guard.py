from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from weaksam_cli.cli.guard import guarded
from weaksam_cli.console import Console, Mode


class Swallows:
    """Python drops what is raised in here."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(
    "error", [MemoryError("3 GB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_not_there_is_no_bug(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, guarded(Console(Mode.HUMAN)):
        raise error
    assert ended.value.code == 2
    assert "the memory of this machine does not suffice" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("data", ""), ("cam", "--run-dir", ""), ("status", "--dataset", "")])
def test_an_empty_argument_is_no_folder(arguments: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weaksam_cli", *arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"the argument after {arguments[-2]!r} is empty" in found.stderr
    assert not [*tmp_path.iterdir()]


def wait() -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_that_python_drops_stops_the_command_all_the_same(number: signal.Signals, code: int) -> None:
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught, guarded(Console(Mode.QUIET)):
        Swallows(number)
        wait()
    assert caught.value.code == code
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_leaving_is_not_disturbed(number: signal.Signals, code: int) -> None:
    left = False
    with pytest.raises(SystemExit) as caught, guarded(Console(Mode.QUIET)):
        try:
            os.kill(os.getpid(), number)
            wait()
        finally:
            time.sleep(0.7)
            left = True
    assert caught.value.code == code and left


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    with pytest.raises(SystemExit), guarded(Console(Mode.QUIET)):
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
@pytest.mark.parametrize("arguments", [("inspect", "none.h5"), ("weights", "--json"), ("--help",), ("frob",)])
def test_a_reader_who_has_left_ends_the_command_and_never_with_0(
    tmp_path: Path, closed: str, arguments: tuple[str, ...]
) -> None:
    """F7: whoever piped stderr away got 0 for nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
    command = [sys.executable, "-m", "weaksam_cli", *arguments]
    result = subprocess.run(command, cwd=tmp_path, text=True, check=False, **streams)
    os.close(writer)
    failing = arguments[0] in ("inspect", "frob")
    says = "stderr" if failing else "stdout"
    expected = 141 if says == closed else 2 if failing else 0
    # Before a command begins the signal ends the program, and a shell says 141.
    assert result.returncode == (-signal.SIGPIPE if expected == 141 and len(arguments) == 1 else expected)
    assert "Traceback" not in (result.stdout or "") + (result.stderr or "")


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        ("--help >/dev/full", 2, "error: stdout: cannot be written: No space left on device"),
        ("weights --json >/dev/full", 2, "error: stdout: cannot be written: No space left on device"),
        ("weights --json 2>/dev/full", 0, None),
        ("weights --json >&-", 0, ""),
        ("weights --json 2>&-", 0, None),
        ("weights --json >&- 2>&-", 0, None),
    ],
)
def test_streams_that_cannot_be_written(
    tmp_path: Path, redirection: str, code: int, message: str | None
) -> None:
    """F8: tracebacks, and code 120."""
    command = f"{sys.executable} -m weaksam_cli {redirection}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    assert message is None or result.stderr.strip() == message
    assert "Traceback" not in result.stdout + result.stderr


def test_a_closed_stream_is_not_taken_by_the_next_file(tmp_path: Path) -> None:
    """What the program says went into the file that got the number of the stream."""
    program = "import os; from weaksam_cli.__main__ import _open_standard_streams as f; f(); print(os.open('a', 66))"
    command = f'{sys.executable} -c "{program}" >&- 2>&- <&-; {sys.executable} -c "{program}"'
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout == "3\n"
    assert (tmp_path / "a").read_bytes() == b""
