"""What may not happen, whatever is read."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.process import Ended

MEMORY = 2_000_000_000
ESCAPED = Path("/tmp/weaksam-fuzz-escaped")
"""What hostile input asks for; nobody else makes it."""

_EXIT_CODES = (0, 2, 3)
_BIG = 100_000_000
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_FRAME = re.compile(r'File "[^"]*?([^/"]+/[^/"]+\.py)", line (\d+)')


@dataclass(frozen=True)
class Finding:
    """Something that went wrong.

    Attributes:
        kind: traceback, hang, memory, touched, message.
        what: in words; equal words are the same fault, as far as one can tell.
    """

    kind: str
    what: str


def findings(ended: Ended) -> list[Finding]:
    """What is wrong with how a command ended, and with what it said."""
    err = ended.err.decode("utf-8", "replace")
    found = []
    if ended.code is None:
        found.append(Finding("hang", f"still runs after {ended.seconds:.0f} s"))
    elif "Traceback (most recent call last)" in err:
        found.append(Finding("traceback", _arose(err)))
    elif ended.code not in _EXIT_CODES:
        found.append(Finding("traceback", f"exit code {ended.code}"))
    else:
        found += [Finding("message", fault) for fault in _faults(ended, err)]
    if ended.memory > MEMORY:
        found.append(Finding("memory", f"{ended.memory / 1e9:.1f} GB"))
    return found


def _arose(err: str) -> str:
    """The deepest place of a traceback in the program itself, and the kind of the error."""
    frames = [*_FRAME.finditer(err)]
    own = [match for match in frames if "weaksam_cli" in match[0]] or frames
    place = f"{own[-1][1]}:{own[-1][2]}" if own else "?"
    kinds = re.findall(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Warning|Exit))\b", err, re.MULTILINE)
    return f"{kinds[-1] if kinds else '?'} at {place}"


def _faults(ended: Ended, err: str) -> list[str]:
    """What is wrong with the lines of a command that ended as it may."""
    faults = [
        f"control characters on {name}: {match[0]!r}"
        for name, text in (("stderr", err), ("stdout", ended.out.decode("utf-8", "replace")))
        if (match := _CONTROL.search(text))
    ]
    if ended.code == 0 or err.startswith("Usage: "):
        return faults
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if not errors:
        return [*faults, f"exit code {ended.code} without an error line"]
    if not lines[-1].startswith("error: "):
        return [*faults, "an error of several lines"]
    return faults


def snapshot(root: Path) -> dict[str, str]:
    """Every path below `root` with what it is: the digest of a file's bytes, the target of a link."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - any bytes
            found[os.path.relpath(path, root)] = _nature(path)
    return found


def _nature(path: str) -> str:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)}"  # noqa: PTH115
    if not stat.S_ISREG(status.st_mode):
        return f"of mode {stat.S_IFMT(status.st_mode):o}"
    if status.st_size > _BIG:
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    with open(path, "rb") as handle:  # noqa: PTH123
        return hashlib.sha256(handle.read()).hexdigest()


def touched(before: Mapping[str, str], after: Mapping[str, str], allowed: Collection[str]) -> list[Finding]:
    """What a command changed that it may not: paths that do not begin with one of those allowed."""
    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    outside = sorted(path for path in changed if not path.startswith(tuple(allowed)))
    found = [Finding("touched", path) for path in outside]
    if ESCAPED.exists() or ESCAPED.is_symlink():
        found.append(Finding("touched", str(ESCAPED)))
    return found
