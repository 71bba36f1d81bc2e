"""The published text format of point prompts: one file an image, one line a point (spec 02 §2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weaksam_cli.core.types import Points
from weaksam_cli.errors import UserError

_FIELDS = ("column", "row", "class", "value", "map index")
_COCO_SPLITS = ("train2014", "val2014")


def point_file_name(image_id: str, image_list: str = "") -> str:
    """File name of an image's points.

    The published code puts `COCO_train2014_` or `COCO_val2014_` before the id when the path of its image list
    contains the split's name.
    """
    for split in _COCO_SPLITS:
        if split in image_list:
            return f"COCO_{split}_{image_id}.txt"
    return f"{image_id}.txt"


def format_points(points: Points, *, with_map_index: bool) -> str:
    """The text of a file: `column row class value`, and the map index after it for cross-attention points.

    A point without class (-1) is written as class 0: the format has no other way, and the published clustering
    does the same.
    """
    lines = []
    for (column, row), class_index, value, map_index in zip(
        points.xy, points.class_index, points.value, points.map_index, strict=True
    ):
        line = f"{column} {row} {max(class_index, 0)} {value:.3f}"
        lines.append(f"{line} {map_index}\n" if with_map_index else f"{line}\n")
    return "".join(lines)


def parse_points(text: str, *, where: str) -> Points:
    """Points of the text of a file; lines of four and five fields may stand side by side.

    Args:
        text: content of the file; an empty one has no points.
        where: name of the file, for messages.

    Raises:
        UserError: for a line that does not fit the format.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            column, row, class_index, value = int(fields[0]), int(fields[1]), int(fields[2]), float(fields[3])
            map_index = int(fields[4]) if len(fields) > 4 else 0
            too_many = len(fields) > len(_FIELDS)
        except (ValueError, IndexError):
            too_many = True
        if too_many:
            raise UserError(
                f"line {number} is not `{' '.join(_FIELDS[:4])}` with an optional {_FIELDS[4]}: {line.strip()!r}",
                where=where,
                remedy="Write four or five numbers a line, separated by spaces",
            )
        rows.append((column, row, class_index, value, map_index))
    if not rows:
        return Points.empty()
    table = np.asarray(rows, dtype=np.float64)
    return Points(
        table[:, :2].astype(np.int32),
        table[:, 2].astype(np.int32),
        table[:, 3].astype(np.float32),
        table[:, 4].astype(np.int16),
    )


def write_point_file(path: Path, points: Points, *, with_map_index: bool) -> None:
    """Write `points` to `path` in the published format; no points give an empty file."""
    path.write_text(format_points(points, with_map_index=with_map_index), encoding="ascii")


def read_point_file(path: Path) -> Points:
    """Read a file of the published format.

    Raises:
        UserError: for a file that cannot be read or a line that does not fit the format.
    """
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), remedy="Check the path") from error
    return parse_points(text, where=str(path))
