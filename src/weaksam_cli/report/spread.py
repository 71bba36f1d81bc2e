"""Figures of a sweep: mean and spread over the seeds of every setting."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weaksam_cli.engine.sweeps import Point, value_text
from weaksam_cli.eval.report import named
from weaksam_cli.eval.results import MetricRow

Metric = tuple[str, str, str]
"""Split, stage and name."""
COLUMNS: Final = "split,stage,metric,mean,deviation"
"""Of a CSV table, after the settings and before the seeds."""


@dataclass(frozen=True)
class Spread:
    """One figure of one setting.

    Attributes:
        metric: which figure.
        share: in [0, 1], shown in percent; otherwise a number.
        values: seed -> figure, of the seeds that have one.
    """

    metric: Metric
    share: bool
    values: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without any."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the sample (n - 1); None for fewer than two seeds."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """`32.1 ± 0.4`, shares in percent; no spread of one seed."""
        if self.mean is None:
            return "-"
        factor = 100 if self.share else 1
        spread = "" if self.deviation is None else f" ± {factor * self.deviation:.1f}"
        return f"{factor * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Setting:
    """One setting of a sweep with its figures.

    Attributes:
        values: key -> value.
        variants: seed -> variant, those that were made.
        figures: in the order of `eval`.
    """

    values: Mapping[str, Any]
    variants: Mapping[int, str]
    figures: Mapping[Metric, Spread]


def by_setting(points: Sequence[Point], rows: Mapping[str, Iterable[tuple[str, MetricRow]]]) -> list[Setting]:
    """The settings of a sweep, in its order, each over its seeds.

    Args:
        points: of the sweep.
        rows: variant -> (split, row) of its artifacts, for those that were made.
    """
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(str(point.settings), []).append(point)
    return [_setting(group, rows) for group in groups.values()]


def _setting(group: Sequence[Point], rows: Mapping[str, Iterable[tuple[str, MetricRow]]]) -> Setting:
    found: dict[Metric, tuple[bool, dict[int, float]]] = {}
    made = {point.seed: point.variant for point in group if point.variant in rows}
    for seed, variant in made.items():
        for split, row in rows[variant]:
            _, values = found.setdefault((split, row.stage, row.name), (row.share, {}))
            if row.value is not None:
                values[seed] = row.value
    figures = {metric: Spread(metric, share, values) for metric, (share, values) in found.items()}
    return Setting(group[0].settings, made, figures)


def headlines(settings: Sequence[Setting]) -> list[Metric]:
    """The metrics of which a table has a column: of those that differ in their protocol alone, the first."""
    first: dict[tuple[str, str, str], Metric] = {}
    for item in settings:
        for split, stage, name in item.figures:
            first.setdefault((split, stage, named(name)[0]), (split, stage, name))
    return [*first.values()]


def table(settings: Sequence[Setting], split: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows for people: a row a setting, a column a headline metric of the split."""
    columns = [metric for metric in headlines(settings) if metric[0] == split]
    keys = [*settings[0].values] if settings else []
    several = len({stage for _, stage, _ in columns}) > 1
    names = [f"{stage} {named(name)[0]}" if several else named(name)[0] for _, stage, name in columns]
    rows = []
    for item in settings:
        cells = [item.figures[metric].text if metric in item.figures else "-" for metric in columns]
        rows.append([*(value_text(item.values[key]) for key in keys), str(len(item.variants)), *cells])
    return [*keys, "seeds", *names], rows


def as_json(settings: Sequence[Setting], split: str | None = None) -> list[dict[str, Any]]:
    """Everything, for programs: every metric of every setting, or those of a split, with the figure of each seed."""
    return [
        {
            "settings": dict(item.values),
            "variants": {str(seed): name for seed, name in item.variants.items()},
            "figures": [
                _figure(found) for found in item.figures.values() if split in (None, found.metric[0])
            ],
        }
        for item in settings
    ]


def _figure(found: Spread) -> dict[str, Any]:
    split, stage, name = found.metric
    return {
        "split": split, "stage": stage, "name": name, "share": found.share, "mean": found.mean,
        "deviation": found.deviation, "values": {str(seed): value for seed, value in found.values.items()},
    }  # fmt: skip


def as_csv(settings: Sequence[Setting]) -> str:
    """The same as a table: a row a setting, metric and split; the figure of a seed that has none is left empty."""
    keys = [*settings[0].values] if settings else []
    seeds = sorted({seed for item in settings for seed in item.variants})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *COLUMNS.split(","), *(f"seed {seed}" for seed in seeds)])
    for item in settings:
        values = [value_text(item.values[key]) for key in keys]
        for found in item.figures.values():
            own = [found.values.get(seed, "") for seed in seeds]
            spread = ["" if value is None else value for value in (found.mean, found.deviation)]
            writer.writerow([*values, *found.metric, *spread, *own])
    return text.getvalue()
