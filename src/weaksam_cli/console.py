"""The one output sink: what a person reads on a terminal, JSON lines for programs, or nothing but errors.

Results go to stdout, everything else to stderr, so `weaksam ... > file` keeps the results.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from typing import IO, Any, Protocol
from unicodedata import category

from weaksam_cli.errors import UserError

_MEGABYTE = 1_000_000


class Mode(Enum):
    """How the program speaks."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


class Progress(Protocol):
    """Counts work that is done."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more units are done; `note` is shown beside the bar."""
        ...


class Console:
    """The sink that every module writes through."""

    def __init__(self, mode: Mode, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.mode = mode
        # A stream that the caller closed is None.
        self._out = out or sys.stdout or io.StringIO()
        self._err = err or sys.stderr or io.StringIO()

    def info(self, text: str, **fields: Any) -> None:
        """A line about what happens; `fields` are what JSON readers get beside it."""
        if self.mode is Mode.HUMAN:
            self._write(self._err, one_line(text))
        elif self.mode is Mode.JSON:
            self._event("info", text=text, **fields)

    def warn(self, text: str, **fields: Any) -> None:
        """Something that the user should know and that does not stop the work."""
        if self.mode is Mode.JSON:
            self._event("warning", text=text, **fields)
        else:
            self._write(self._err, f"warning: {one_line(text)}")

    def error(self, text: str) -> None:
        """The one line of a failure."""
        if self.mode is Mode.JSON:
            self._event("error", text=text)
        self._write(self._err, f"error: {one_line(text)}")

    def result(self, *lines: str, **fields: Any) -> None:
        """What the command was asked for: lines for people, `fields` for JSON readers."""
        if self.mode is Mode.JSON:
            self._event("result", **fields)
        elif self.mode is Mode.HUMAN:
            self._write(self._out, "\n".join(map(one_line, lines)))

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A result with rows and columns."""
        if self.mode is Mode.JSON:
            self._event("table", title=title, header=list(header), rows=[list(row) for row in rows])
        elif self.mode is Mode.HUMAN:
            text = format_table(*([one_line(cell) for cell in row] for row in (header, *rows)))
            self._write(self._out, f"\n{one_line(title)}\n{text}" if title else text)

    @contextmanager
    def progress(self, title: str, total: int, unit: str = "images", *, done: int = 0) -> Iterator[Progress]:
        """Show how much of `total` is done, how fast, and when it will end; `done` were done before."""
        if self.mode is Mode.HUMAN and self._err.isatty():
            with _rich_progress(self._err, title, total, unit, done) as bar:
                yield bar
        else:
            yield _LineProgress(self, title, total, unit, done)

    def _event(self, kind: str, **fields: Any) -> None:
        text = json.dumps({"event": kind, **fields}, ensure_ascii=False)
        self._write(self._out, one_line(text, lambda character: json.dumps(character)[1:-1]))

    def _write(self, stream: IO[str], text: str) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            mute(stream)
            if stream is self._out:
                raise UserError(f"cannot be written: {error.strerror}", where="stdout") from error


def mute(stream: IO[str] | None) -> None:
    """Let a stream that cannot be written lead nowhere: Python flushes it at exit and would complain once more."""
    if stream is None:
        return
    with suppress(OSError):  # what is no file, as in a test, is left alone
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _LineProgress:
    """Progress as a line now and then, for logs and JSON readers."""

    interval = 15.0

    def __init__(self, console: Console, title: str, total: int, unit: str, done: int) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._done = done
        self._first: tuple[int, float] | None = None
        """What was done after the first step, and when: its time is that of loading, too, and no measure of the rest."""
        self._last = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if self._first is None:
            self._first = self._done, now
        if now - self._last < self.interval:
            return
        self._last = now
        text, (before, start) = f"  {self._title}: {self._done}/{self._total} {self._unit}", self._first
        left = None
        if self._done > before:
            left = round((now - start) / (self._done - before) * (self._total - self._done))
            text += f", about {duration(left)} left"
        self._console.info(
            f"{text}{note and ', ' + note}", done=self._done, total=self._total, seconds_left=left
        )


@contextmanager
def _rich_progress(stream: IO[str], title: str, total: int, unit: str, done: int) -> Iterator[Progress]:
    from rich import progress as rich
    from rich.console import Console as RichConsole

    columns = (
        rich.TextColumn("  {task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn(unit, markup=False),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
    )
    with rich.Progress(*columns, console=RichConsole(file=stream)) as bars:
        task = bars.add_task(one_line(title), total=total, completed=done, note="")

        class Bar:
            def advance(self, steps: int = 1, note: str = "") -> None:
                bars.update(task, advance=steps, note=one_line(note))

        yield Bar()


@contextmanager
def byte_progress(console: Console, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Progress in megabytes; yields a function that takes the bytes that were just done."""
    seen = done
    with console.progress(title, total // _MEGABYTE, "MB", done=done // _MEGABYTE) as progress:

        def advance(count: int) -> None:
            nonlocal seen
            before, seen = seen, seen + count
            if steps := seen // _MEGABYTE - before // _MEGABYTE:
                progress.advance(steps)

        yield advance


def one_line(text: str, written: Callable[[str], str] = lambda character: repr(character)[1:-1]) -> str:
    """`text` with what is no visible character written out.

    A file's or a class's name may hold line ends, commands to the terminal, marks that turn the direction of writing, or
    bytes that are no text.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or category(character) == "Zs" else written(character)
        for character in text
    )


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes for people: `17.2 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def format_table(header: Sequence[str], *rows: Sequence[str]) -> str:
    """Aligned columns; columns of numbers are right-aligned, others left-aligned.

    Not by rich: a table is the same in a file, a pipe and a terminal of any width, and costs no import.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [bool(rows) and all(cell[:1] in "0123456789-" for cell in column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, numeric, strict=True)
        return "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells
        ).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])
