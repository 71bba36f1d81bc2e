"""The results file for people: its table on the console, and recall against the number of proposals as a plot."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weaksam_cli.console import Console
from weaksam_cli.eval.results import Curve, MetricRow, Results, read_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT, _DOTS = 9.0, 3.9, 150
"""Inches, and dots an inch: letters stay legible when a page shows the image 900 pixels wide."""
_STYLES = ("-", "--", "-.", ":")
_PROTOCOL = re.compile(r"(.+?) \(([\w-]+)\)(.*)")
_OF_CLASSES = (
    *("classification", "precision", "recall", "CorLoc", "VOC AP50"),
    *("mean best mask IoU", "mask precision", "mask recall", "mask AP50"),
)
"""How the names begin of metrics that are told of each class."""


def show_results(path: Path, console: Console) -> None:
    """Print a results file, a row a metric."""
    found = read_results(path)
    of_sources = [item for item in found.metrics if source_of(item)]
    rows = [[item.source, *named(item.name), item.text] for item in found.metrics if item not in of_sources]
    title = f"{found.dataset} {found.split}: {found.images} images ({path})"
    console.table(title, ["artifact", "metric", "protocol", "value"], rows)
    if left_out := found.ground_truth.objects_left_out:
        images = len({item.image for item in left_out})
        console.warn(
            f"{len(left_out)} objects of {images} images could not be used as ground truth, see {path}"
        )
    if of_sources:
        console.table("recall of every source of proposals alone", *source_table(of_sources))
    for line in gains(found.metrics):
        console.result(line, gain=line)


def show_classes(path: Path, console: Console) -> None:
    """Print what a results file has of each class: a column an artifact, by the headline of its metrics."""
    found = read_results(path)
    columns: dict[str, dict[str, float]] = {}
    for item in found.metrics:
        metric, _ = named(item.name)
        if item.classes and metric.startswith(_OF_CLASSES):
            columns.setdefault(f"{item.source} {metric}", item.classes)
    rows = [
        [name, *(f"{100 * values[name]:.1f} %" if name in values else "-" for values in columns.values())]
        for name in dict.fromkeys(name for values in columns.values() for name in values)
    ]
    console.table(f"{found.dataset} {found.split}: classes", ["class", *columns], rows)


def named(metric: str) -> tuple[str, str]:
    """The name of a metric in plain words, and its protocol: `VOC AP50 (mist)` is VOC AP50 by MIST's."""
    found = _PROTOCOL.fullmatch(metric)
    return (f"{found[1]}{found[3]}", found[2]) if found else (metric, "")


def gain(new: MetricRow | None, old: MetricRow | None) -> float | None:
    """How much a figure is above another one, shares in points of percent; None where one of them lacks."""
    if new is None or old is None or new.value is None or old.value is None:
        return None
    return (new.value - old.value) * (100 if new.share else 1)


def gains(metrics: Sequence[MetricRow]) -> list[str]:
    """What retraining changed: the headline AP50 of every retrained detector beside the weakly supervised one's."""
    headline = next((item.name for item in metrics if item.name.startswith("VOC AP50")), "")
    found = [item for item in metrics if item.name == headline]
    before = {item.variant: item for item in found if item.stage == "wsod"}
    pairs = [
        (before.get(item.variant) or before.get(""), item)
        for item in found
        if item.stage in ("retrain", "both")
    ]
    return [
        f"{item.source}: {named(headline)[0]} {old.text} -> {item.text} ({change:+.1f})"
        for old, item in pairs
        if old is not None and (change := gain(item, old)) is not None
    ]


def source_of(item: MetricRow) -> str:
    """The source of the proposals that a metric is about; '' for all of them, and for other metrics."""
    return item.name.partition(": ")[2] if item.stage == "propose" else ""


def source_table(metrics: Sequence[MetricRow]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one row an artifact and source, of metrics of single sources."""
    values: dict[tuple[str, str], dict[str, str]] = {}
    for item in metrics:
        name = item.name.partition(": ")[0].removeprefix("recall at ")
        values.setdefault((item.source, source_of(item)), {})[name] = item.text
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = [
        [artifact, source, *(row.get(name, "") for name in columns)]
        for (artifact, source), row in values.items()
    ]
    return ["artifact", "source", *columns], rows


def draw_results(found: Results) -> bytes:
    """The curves of a results file as a PNG."""
    title = f"Recall of proposals on {found.dataset} {found.split} ({found.images} images)"
    return draw_recall({curve.source: curve for curve in found.curves}, title)


def draw_recall(curves: Mapping[str, Curve], title: str) -> bytes:
    """A PNG with one panel an IoU threshold and one line a curve; equal curves give equal bytes.

    Args:
        curves: name in the legend to a curve, at least one; all have the same thresholds.
        title: above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [*next(iter(curves.values())).recall]
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for threshold, panel in zip(panels, axes, strict=True):
        _draw_panel(panel, curves, threshold)
    axes[0].set_ylabel("recall [%]")
    axes[len(axes) // 2].set_xlabel("proposals kept of an image, the best first (mean, log scale)")
    figure.suptitle(title, fontsize="large")
    handles, names = axes[0].get_legend_handles_labels()
    rows = math.ceil(len(names) / 3)
    columns = math.ceil(len(names) / rows)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(panel: Axes, curves: Mapping[str, Curve], threshold: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    for index, (name, curve) in enumerate(curves.items()):
        panel.plot(
            curve.counts,
            100 * np.asarray(curve.recall[threshold], float),  # null becomes NaN
            label=name,
            color=f"C{index}",
            linestyle=_STYLES[index % len(_STYLES)],
            marker="o",
            markersize=3.5,
        )
    panel.set_xscale("log")
    panel.set_ylim(0, 100)
    panel.set_title(f"IoU ≥ {threshold}", fontsize="medium")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(alpha=0.3)
