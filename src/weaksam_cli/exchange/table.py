"""A CSV table, a row a box: `image,label,xmin,ymin,xmax,ymax,score`, pixel edges counted from 0.

An image without boxes has a row without them. A cell that a spreadsheet would take for a formula gets an apostrophe before
it, which says so there; an image's path gets `./`, which is the same path.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from weaksam_cli.core.names import first_few
from weaksam_cli.exchange.annotated import Annotated, Options, masks_not_held
from weaksam_cli.exchange.formats import Written

WRITES: Final = {"csv": "pixels: left, top, right, bottom"}
SUFFIX: Final = ".csv"
_HEADER: Final = ("image", "label", "xmin", "ymin", "xmax", "ymax", "score")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A table of everything."""
    names = [_is_formula(name) for name in annotated.classes]
    labels = [
        f"'{name}" if is_formula else name for name, is_formula in zip(annotated.classes, names, strict=True)
    ]
    changed = [name for name, is_formula in zip(annotated.classes, names, strict=True) if is_formula]
    told = f"a spreadsheet would run {len(changed)} class names, which have an apostrophe before them"
    remarks = [f"{told}: {first_few(map(repr, changed), 3)}"] if changed else []
    remarks += masks_not_held(annotated, "a row is a box")
    return Written({"": _table(_rows(annotated, labels))}, annotated.boxes, remarks)


def _is_formula(text: str) -> bool:
    """Would a spreadsheet take a cell for a formula? A number is none."""
    try:
        float(text)
    except ValueError:
        return text.startswith(_FORMULA)
    return False


def _rows(annotated: Annotated, labels: list[str]) -> Iterable[tuple[object, ...]]:
    for image in annotated.images:
        name = f"./{image.file_name}" if _is_formula(image.file_name) else image.file_name
        if not len(image):
            yield (name, *[""] * (len(_HEADER) - 1))
        for index, box, score, _ in image.rows():
            yield name, labels[index], *box, "" if score is None else score


def _table(rows: Iterable[tuple[object, ...]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(rows)
    return text.getvalue().encode()
