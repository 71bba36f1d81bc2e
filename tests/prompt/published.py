"""The published text format of point prompts, one line a point (spec 02 §2), as the oracles hold it."""

from __future__ import annotations

from weaksam_cli.core.types import Points


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
