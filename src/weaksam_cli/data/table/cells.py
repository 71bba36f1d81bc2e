"""Several labels in one cell of a table: at what they are parted, judged by the whole column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_MARKS = "|,/+&:\n"
"""What parts labels where the column shows it."""
_COMMON = "|,"
_IN_NAMES = " _-"
"""What stands in names too, so that it parts only when a person says so."""


def splitter(
    cells: Iterable[str], separator: str | None
) -> tuple[Callable[[str], tuple[str, ...]], tuple[str, ...]]:
    """How the cells of a column are parted, and what is to be told of it.

    A semicolon always parts labels, and so do brackets with commas in them (`['cat', 'dog']`). A bar, comma, slash, plus or
    ampersand does when half of the parts or more are labels of their own elsewhere in the column, or occur in several
    combinations; else it belongs to the name. With a `separator` nothing else parts.
    """
    column = Counter(cell for cell in cells if cell)
    chosen, warnings = [separator or ";"], []
    for mark in "" if separator else _MARKS:
        holding = [cell for cell in column if mark in cell and not _is_list(cell)]
        if holding and _are_labels(holding, mark, column):
            chosen.append(mark)
            told = f"labels are parted at {mark!r}, as in {holding[0][:80]!r}"
            warnings.append(f"{told}; --set separator=';' keeps them whole")
        elif holding and mark in _COMMON:
            told = f"labels such as {holding[0][:80]!r} hold {mark!r} and are taken whole"
            warnings.append(f"{told}; --set separator='{mark}' parts them")
    for mark in "" if separator else _IN_NAMES:
        doubtful = [cell for cell in column if mark in cell and not any(item in cell for item in chosen)]
        if doubtful and _are_labels(doubtful, mark, column):
            told = f"labels such as {doubtful[0][:80]!r} may be several in one"
            warnings.append(f"{told}; --set separator='{mark}' parts them")
    pattern = re.compile("|".join(map(re.escape, chosen)))

    def split(cell: str) -> tuple[str, ...]:
        listed = _is_list(cell) and separator is None
        parts = (
            [part.strip().strip("'\"") for part in cell[1:-1].split(",")] if listed else pattern.split(cell)
        )
        return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))

    return split, tuple(warnings)


def _is_list(cell: str) -> bool:
    """A list, tuple or set as Python prints it, or a database: `['cat']`, `('cat', 'dog')`, `{cat,dog}`."""
    return re.fullmatch(r"\[.*\]|\{.*\}|\((['\"].*)?\)", cell) is not None


def _are_labels(cells: list[str], mark: str, column: Counter[str]) -> bool:
    """Whether what is parted by a mark looks like labels: at least half of the parts stand elsewhere."""
    parts = Counter(part.strip() for cell in cells for part in set(cell.split(mark)) if part.strip())
    known = sum(part in column or count > 1 for part, count in parts.items())
    return 0 < len(parts) <= 2 * known
