"""Text files with a line for each image or point, read line by line: a film that is given as one ends at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from weaksam_cli.errors import UserError

MOST_LINES: Final = 10_000_000
LONGEST_LINE: Final = 4096
"""Bytes: no system has longer paths."""


def text_lines(path: Path, what: str, *, most: int = MOST_LINES, remedy: str | None = None) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends (`\\n` or `\\r\\n`); other separators may stand in names.

    Args:
        path: the file.
        what: it is expected to be, for messages.
        most: lines.
        remedy: for messages.

    Raises:
        UserError: a file that cannot be read, has more lines, or one that is no text or longer than `LONGEST_LINE`.
    """

    def refusal(got: str) -> UserError:
        return UserError(f"expected {what}, got {got}", where=str(path), remedy=remedy)

    try:
        # A named pipe would block for ever.
        if not path.is_file():
            raise refusal("something else than a file" if path.exists() else "no such file")
        with path.open("rb") as handle:
            lines = iter(lambda: handle.readline(LONGEST_LINE + 2), b"")
            for number, line in enumerate(lines, 1):
                if fault := _fault(line) if number <= most else "is one too many":
                    raise refusal(f"a file of {path.stat().st_size:,} bytes whose line {number:,} {fault}")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise refusal(f"a file that cannot be read ({error.strerror})") from error


def _fault(line: bytes) -> str | None:
    if b"\0" in line:
        return "holds a zero byte"
    if len(line) > LONGEST_LINE + 1:
        return f"is longer than {LONGEST_LINE} bytes"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"is no UTF-8 (byte {error.start})"
    return None
