"""The figures of the loss analysis for people: a table, and wrong RoIs against their losses as a plot (Fig. 2)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from weaksam_cli.console import Console
from weaksam_cli.eval.region_errors import ERRORS, LOSSES, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT, _DOTS = 10.0, 4.2, 150
_TAU = {"classification": "tau_cls", "regression": "tau_reg"}
_BARS, _LINE, _CUT = "#b8c4d6", "#b03a2e", "#444444"


def show_losses(found: Mapping[str, Any], console: Console) -> None:
    """Print what share of the foreground RoIs is wrong, and of those that each semantics of RoI drop leaves out."""
    rows = [_row("all foreground RoIs", found["foreground"])]
    rows += [_row(f"dropped: {name}", item) for name, item in found["dropped"].items()]
    told = [f"{name} {found[name]:g}" for name in ("tau_cls", "tau_reg") if found[name] is not None]
    header = ["RoIs", "number", "of foreground", *(f"wrong, {name}" for name in ERRORS)]
    console.table(
        f"{found['dataset']} {found['split']}: RoIs after {found['iterations']} iterations, {', '.join(told)}",
        header,
        rows,
    )
    areas = ", ".join(f"{name} {_number(value)}" for name, value in found["ranking"].items())
    line = f"how well a loss tells wrong RoIs (area under the ROC curve, 0.5: not at all): {areas}"
    console.result(line, losses=dict(found))


def _row(name: str, item: Mapping[str, Any]) -> list[str]:
    shares = [item["share"], *(item["wrong"][error] for error in ERRORS)]
    return [name, str(item["regions"]), *(_percent(value) for value in shares)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw_losses(found: Mapping[str, Any]) -> bytes:
    """The curves of both losses as a PNG; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    for name, axes in zip(LOSSES, figure.subplots(1, len(LOSSES)), strict=True):
        _draw_panel(axes, found, name)
    images, count = found["images"], found["foreground"]["regions"]
    figure.suptitle(
        f"{found['dataset']} {found['split']}: {count} foreground RoIs of {images} images, "
        f"after {found['iterations']} iterations",
        fontsize="large",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(axes: Axes, found: Mapping[str, Any], name: str) -> None:
    curve = found["curves"][name]
    regions, wrong = (np.asarray(curve[key], np.int64) for key in ("regions", "wrong"))
    centres = (np.arange(len(regions)) + 0.5) / len(regions)
    axes.bar(centres, regions, width=0.9 / len(regions), color=_BARS)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("number of RoIs (bars, log scale)")
    low, high = curve["lowest"], curve["highest"]
    axes.set_xlabel(f"{name} loss, normalised (0 is {low:.2g}, 1 is {high:.3g})")
    rate = axes.twinx()
    there = regions > 0
    lower, upper = 100 * wilson(wrong, regions)[:, there]
    rate.fill_between(centres[there], lower, upper, color=_LINE, alpha=0.15, linewidth=0)
    rate.plot(centres[there], 100 * wrong[there] / regions[there], color=_LINE, marker="o", markersize=4)
    rate.set_ylim(0, 100)
    rate.set_ylabel("wrong RoIs [%] (line, 95 % interval)", color=_LINE)
    tau = found[_TAU[name]]
    if tau is not None and low < tau < high:
        place = (tau - low) / (high - low)
        axes.axvline(place, color=_CUT, linestyle="--", linewidth=1)
        axes.annotate(
            f"$\\tau$ = {tau:g}", (place, 0.97), xycoords=("data", "axes fraction"), ha="left", va="top",
            xytext=(4, 0), textcoords="offset points", color=_CUT,
        )  # fmt: skip
    area = _number(found["ranking"][name])
    axes.set_title(f"{name} loss (ROC area {area})", fontsize="medium")
