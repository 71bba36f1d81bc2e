"""The charts of a run: recall of proposals, sizes of boxes, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from weaksam_cli.core.boxes import area
from weaksam_cli.report import choose, figures
from weaksam_cli.report.cards import title_of
from weaksam_cli.report.collect import Run

_SIZES: Final = ("<5", "5-10", "10-20", "20-30", "30-40", "40-60", "60-80", ">80")
_SETS: Final = ("pseudo boxes", "detections", "truth")
_SIZE_EDGES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)


def recall(run: Run) -> list[Markup]:
    """Recall against the number of proposals, a chart a split, with a line a variant and IoU."""
    found = []
    for split in run.splits:
        series = [
            figures.Series(
                f"{title_of(curve.source)}, IoU {threshold}",
                curve.counts,
                [None if value is None else 100 * value for value in values],
            )
            for curve in split.results.curves
            for threshold, values in curve.recall.items()
            if len(values) == len(curve.counts)
        ]
        if series:
            title = f"Recall against the number of proposals, {split.name}"
            found.append(
                figures.line_chart(
                    series, title, "proposals kept of an image", "recall, %", log=True, top=100
                )
            )
    return found


def sizes(run: Run) -> list[Markup]:
    """How large pseudo boxes, detections and annotated objects are, a chart a split."""
    found = []
    for split in run.splits:
        pixels = {image.key: image.height * image.width for image in split.labels.file.images}
        sets: dict[str, Mapping[str, Any]] = {}
        if "pgt" in split.boxes:
            sets["pseudo boxes"] = split.boxes["pgt"]
        if split.final:
            most = choose.boxes_an_image(split.boxes.get("pgt"), split.labels)
            sets["detections"] = choose.shown(split.boxes[split.final], most)
        if split.truth:
            sets["truth"] = split.truth
        series = [
            figures.Series(
                name, [], _shares({key: item.boxes for key, item in every.items()}, pixels), _SETS.index(name)
            )
            for name, every in sets.items()
        ]
        if series:
            title = f"Sizes of boxes, {split.name}"
            found.append(
                figures.bar_chart(_SIZES, series, title, "side, % of the image's", "share of the boxes, %")
            )
    return found


def _shares(boxes: Mapping[str, np.ndarray], pixels: Mapping[str, int]) -> list[float | None]:
    """Percentage of the boxes whose side, the root of their share of the image, falls between the edges."""
    sides = [np.sqrt(area(item) / max(pixels[key], 1)) for key, item in boxes.items() if len(item)]
    if not sides:
        return [None] * len(_SIZES)
    every = np.concatenate(sides)
    counts = np.bincount(np.digitize(every, _SIZE_EDGES), minlength=len(_SIZES))
    return [100 * float(count) / len(every) for count in counts]


def training(name: str, rows: Sequence[Mapping[str, float]]) -> Markup:
    """The losses of a training, from the rows of its `metrics.json`, at least one."""
    names = [key for key in rows[0] if key not in ("iteration", "lr")]
    xs = [row.get("iteration", 0.0) for row in rows]
    series = [
        figures.Series(key.removeprefix("loss_"), xs, [row.get(key) for row in rows]) for key in names[:8]
    ]
    return figures.line_chart(series, f"Training of {name}", "iteration", "loss")
