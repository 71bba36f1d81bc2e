"""SHA-256 of files, bytes and JSON-like values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def of_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks; `on_bytes` hears how many bytes each had."""
    value = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            value.update(block)
            on_bytes(len(block))
    return value.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_json(value: Any) -> str:
    """Hexadecimal SHA-256 of `canonical_json(value)`."""
    return of_bytes(canonical_json(value).encode())
