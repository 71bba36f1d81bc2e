"""Compare the artifacts of two runs by what they hold, not by when or by which version they were made.

python benchmarks/compare_runs.py runs/before runs/after
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors.numpy import load_file


def contents(path: Path) -> dict[str, Any]:
    """Name -> array or JSON value of everything in an artifact."""
    if path.suffix == ".h5":
        with h5py.File(path) as handle:
            return {name: item[...] for name, item in handle.items()}
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    value = json.loads(path.read_bytes())
    return dict(value) if isinstance(value, dict) else {"entries": value}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A few words for each part that differs."""
    found = [f"-{name}" for name in before.keys() - after.keys()]
    found += [f"+{name}" for name in after.keys() - before.keys()]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if not isinstance(old, np.ndarray):
            if old != new:
                found.append(name)
        elif old.shape != new.shape:
            found.append(f"{name} {old.shape} -> {new.shape}")
        elif not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            numeric = old.dtype.kind in "iuf"
            least = np.abs(old.astype(np.float64) - new.astype(np.float64)).max() if numeric else 0
            found.append(f"{name} by at most {least:.2g}" if numeric else name)
    return found


def main(before: Path, after: Path) -> None:
    """Print a line for each artifact of the first run."""
    for path in sorted(before.rglob("*")):
        name = path.relative_to(before)
        if path.suffix not in (".h5", ".json", ".safetensors") or path.name.endswith(".receipt.json"):
            continue
        if name.parts[0] == "images" or name.name == "source.json":
            continue
        other = after / name
        if not other.is_file():
            sys.stdout.write(f"{name}: not there\n")
            continue
        found = differences(contents(path), contents(other))
        sys.stdout.write(f"{name}: {'; '.join(found) or 'equal'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
