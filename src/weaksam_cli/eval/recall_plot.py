"""Recall against the number of proposals, drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from weaksam_cli.eval.recall_curve import RecallCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT, _DOTS = 9.0, 3.9, 150
"""Inches, and dots an inch: letters stay legible when a page shows the image 900 pixels wide."""
_STYLES = ("-", "--", "-.", ":")


def draw_recall(curves: Mapping[str, RecallCurve], title: str) -> bytes:
    """A PNG with one panel an IoU threshold and one line a curve; equal curves give equal bytes.

    Args:
        curves: name in the legend to curve; all have the same thresholds.
        title: above the panels.

    Raises:
        ValueError: for no curve, or curves of different thresholds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    thresholds = {tuple(curve.recall) for curve in curves.values()}
    if len(thresholds) != 1:
        raise ValueError(f"curves: expected one or more of the same thresholds, got {sorted(thresholds)}")
    (panels,) = thresholds
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


def _draw_panel(panel: Axes, curves: Mapping[str, RecallCurve], threshold: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    for index, (name, curve) in enumerate(curves.items()):
        panel.plot(
            curve.mean_counts,
            [100 * value for value in curve.recall[threshold]],
            label=name,
            color=f"C{index}",
            linestyle=_STYLES[index % len(_STYLES)],
            marker="o",
            markersize=3.5,
        )
    panel.set_xscale("log")
    panel.set_ylim(0, 100)
    panel.set_title(f"IoU ≥ {threshold:g}", fontsize="medium")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(alpha=0.3)
