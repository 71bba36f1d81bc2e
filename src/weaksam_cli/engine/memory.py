"""The most memory that a piece of work took."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")
_RESET = "5"
"""Linux sets the peak of the resident memory back to what is resident now."""


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Inside, and after: the most bytes that were in use since its begin.

    That is memory of the GPU where this process has used one, else the resident memory of this process, without its
    workers'. None where the system does not tell.
    """
    try:
        (_PROCESS / "clear_refs").write_text(_RESET)
    except OSError:
        yield lambda: None
        return
    gpu = _cuda()
    if gpu is not None:
        gpu.reset_peak_memory_stats()
    yield _peak


def _peak() -> int | None:
    gpu = _cuda()
    if gpu is not None:
        return int(gpu.max_memory_allocated())
    found = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), flags=re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _cuda() -> Any:
    """torch.cuda where it is in use."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
