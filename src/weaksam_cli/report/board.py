"""What a leaderboard leaves in the run: its table with every figure, and the plot of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter

from weaksam_cli.core.files import read_bytes
from weaksam_cli.core.json_files import read_json
from weaksam_cli.eval.report import named
from weaksam_cli.report.spread import Metric, Setting, Spread, headlines

if TYPE_CHECKING:
    from weaksam_cli.artifacts.fsops import FileOps

FOLDER: Final = "leaderboard"
_REMEDY: Final = "Make it again: weaksam leaderboard"
_MOST_BYTES: Final = 5 * 1000**2
_WIDTH, _ROW, _MARGIN, _DOTS = 8.0, 0.34, 1.5, 125
_PLOTTED: Final = ("CorLoc", "VOC AP50")
"""The first that there is is drawn."""
_COLOURS: Final = ("#1f6fb2", "#d1742b", "#2f8f5b", "#8a4fa3", "#6b7280")
_MARKERS: Final = "osD^v"


class Board(BaseModel):
    """One table of a leaderboard.

    Attributes:
        split: whose figures these are.
        header, rows: the table for people, of which all rows have the header's length.
        remarks: below it.
        settings: every figure of every seed, and the variants, beside whose artifacts the receipts lie.
    """

    model_config = ConfigDict(frozen=True, strict=True)
    split: str
    header: list[str]
    rows: list[list[str]]
    remarks: list[str]
    settings: list[dict[str, Any]]


_BOARD: Final = TypeAdapter(Board)


def write_board(folder: Path, board: Board, settings: Sequence[Setting], ops: FileOps) -> Path:
    """Write table and plot of a split; returns the place of the plot."""
    place = folder / f"{board.split}.json"
    ops.write_atomically(place, board.model_dump_json(indent=1).encode() + b"\n")
    plot = place.with_suffix(".png")
    ops.write_atomically(plot, draw_board(settings, board.split))
    return plot


def read_boards(root: Path, splits: Sequence[str]) -> list[tuple[Board, str]]:
    """The boards of a run, each with its plot as a data URI, '' where that is gone.

    Raises:
        UserError: a file is damaged.
    """
    found = []
    for split in splits:
        place = root / FOLDER / f"{split}.json"
        if place.is_file():
            board, plot = read_json(place, _BOARD, remedy=_REMEDY), place.with_suffix(".png")
            data = read_bytes(plot, _MOST_BYTES) if plot.is_file() else b""
            found.append((board, f"data:image/png;base64,{base64.b64encode(data).decode()}" if data else ""))
    return found


def plotted(settings: Sequence[Setting], split: str) -> Metric | None:
    """The figure of a split that is drawn; None where no setting has one."""
    known = [metric for metric in headlines(settings) if metric[0] == split]
    wanted = [metric for name in _PLOTTED for metric in known if named(metric[2])[0] == name]
    return wanted[0] if wanted else None


def ranked(settings: Sequence[Setting], metric: Metric) -> dict[str, dict[str, Spread]]:
    """Method -> proposals -> figure; by the best figure of each method, those without any last."""
    found: dict[str, dict[str, Spread]] = {}
    for item in settings:
        own = found.setdefault(str(item.values["method"]), {})
        if metric in item.figures:
            own[str(item.values["proposals"])] = item.figures[metric]

    def best(name: str) -> float:
        means = [spread.mean for spread in found[name].values() if spread.mean is not None]
        return max(means, default=-1.0)

    return {name: found[name] for name in sorted(found, key=best, reverse=True)}


def draw_board(settings: Sequence[Setting], split: str) -> bytes:
    """A row a method, a mark each proposals, its bar the standard deviation over the seeds, as a PNG; equal figures give
    equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = plotted(settings, split)
    rows = ranked(settings, metric) if metric is not None else {}
    figure = Figure(figsize=(_WIDTH, _MARGIN + _ROW * max(len(rows), 1)), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sources = list(dict.fromkeys(str(item.values["proposals"]) for item in settings))
    for number, source in enumerate(sources):
        _draw_source(axes, rows, source, (number + 1) / (len(sources) + 1) - 0.5, number)
    axes.set_yticks(range(len(rows)), labels=[*rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{named(metric[2])[0] if metric else 'no figure'}, {split} [%]")
    if rows:
        figure.legend(loc="outside upper center", ncols=min(len(sources), 4), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_source(
    axes: Any, rows: Mapping[str, Mapping[str, Spread]], source: str, shift: float, number: int
) -> None:
    known = [(place, own[source]) for place, own in enumerate(rows.values()) if source in own]
    there = [
        (place, spread.mean, spread.deviation or 0.0) for place, spread in known if spread.mean is not None
    ]
    axes.errorbar(
        [100 * mean for _, mean, _ in there],
        [place + 0.7 * shift for place, _, _ in there],
        xerr=[100 * deviation for *_, deviation in there],
        fmt=_MARKERS[number % len(_MARKERS)],
        color=_COLOURS[number % len(_COLOURS)],
        markersize=5,
        capsize=2.5,
        linewidth=1.2,
        label=source,
    )
