"""What goes wrong, said in words, and the exit codes of the program."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

_LONGEST: Final = 2000
"""Characters of a message."""


class ExitCode(IntEnum):
    """Documented exit codes of every sub-command."""

    OK = 0
    BUG = 1
    """An error of the program itself; a traceback follows."""
    USER = 2
    """Something that the user can mend: one line says what, where and how."""
    INCOMPLETE = 3
    """The work is done, but some images failed and `--strict` was given."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    """Whoever read stdout or stderr has left."""
    TERMINATED = 143


class UserError(Exception):
    """A fault that the user can mend.

    Args:
        what: what is wrong, in words of the user.
        where: the file, field, line or option that it is about.
        remedy: what to do about it.
    """

    exit_code = ExitCode.USER

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(self.one_line())

    def one_line(self) -> str:
        """The whole message on one line: `where: what. remedy`; what is very long is cut in its middle."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        stop = "" if head.endswith(("?", "!")) else "."
        text = f"{head.rstrip('.')}{stop} {self.remedy}" if self.remedy else head
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        # Bytes of a file's name that are no text would stop whoever writes the message to a file.
        return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


class ImageError(UserError):
    """One image cannot be used; it is listed in the artifact's `failed` table and the work goes on."""


class IncompleteError(UserError):
    """The artifact was written, but `--strict` forbids the failures that it lists."""

    exit_code = ExitCode.INCOMPLETE


def suggestion(word: str, allowed: Sequence[str]) -> str:
    """`, did you mean 'x'?` for the nearest allowed word, or nothing."""
    near = difflib.get_close_matches(word, allowed, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def unknown(what: str, name: str, allowed: Sequence[str], *, where: str) -> UserError:
    """For a name that is none of those allowed: `what`, the nearest of them, and all."""
    return UserError(
        f"{what}{suggestion(name, allowed)}", where=where, remedy=f"Allowed: {', '.join(allowed)}"
    )


def nearest(name: str, known: Sequence[str]) -> str | None:
    """`Nearest: a, b, c` of the known names that are like `name`; None where none is."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"Nearest: {', '.join(near)}" if near else None
