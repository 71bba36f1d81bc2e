"""Charts as inline SVG: pure functions from numbers to markup; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 42
_SERIES = 8
"""Colours in the style sheet."""
Place = Callable[[float], float]
"""From a value to where it stands on an axis."""


@dataclass(frozen=True)
class Series:
    """One line of a chart; a y of None is not drawn.

    Attributes:
        colour: number of its colour; None: by its place among the series.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: int | None = None


def line_chart(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    top: float | None = None,
) -> Markup:
    """Lines with a legend.

    Args:
        series: at least one, with at least one point.
        title: what screen readers say, and a caption.
        x_label, y_label: of the axes.
        log: logarithmic x; values below 1 are drawn at 1.
        top: where y ends; None: at the largest value.
    """
    points = [(x, y) for item in series for x, y in zip(item.xs, item.ys, strict=True) if y is not None]
    if not points:
        return Markup("")
    xs, highest = [max(x, 1) if log else x for x, _ in points], top or nice(max(y for _, y in points))
    low, high = min(xs), max(*xs, min(xs) + 1e-9)

    def across(x: float) -> float:
        share = (x - low) / (high - low)
        if log:
            share = math.log(max(x, 1) / low) / math.log(high / low) if high / low > 1.0001 else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (1 - min(max(y / highest, 0), 1)) * (_HEIGHT - _TOP - _BOTTOM)

    lines = Markup("").join(_line(item, number, across, down) for number, item in enumerate(series))
    ticks = _powers(low, high) if log else [low + (high - low) * step / 4 for step in range(5)]
    return _framed(
        Markup("").join([_grid(highest, down), _x_axis([(across(x), short(x)) for x in ticks]), lines]),
        series, title, x_label, y_label,
    )  # fmt: skip


def _line(item: Series, number: int, across: Place, down: Place) -> Markup:
    known = [(x, y) for x, y in zip(item.xs, item.ys, strict=True) if y is not None]
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in known)
    kind = _colour(item, number)
    line = Markup('<polyline class="s{}" points="{}"/>').format(kind, path)
    if len(known) > 20:
        return line
    dots = Markup("").join(
        Markup(
            '<circle class="d{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}: {} at {}</title></circle>'
        ).format(kind, across(x), down(y), item.name, short(y), short(x))
        for x, y in known
    )
    return line + dots


def bar_chart(
    groups: Sequence[str], series: Sequence[Series], title: str, x_label: str, y_label: str
) -> Markup:
    """Bars side by side, a group an x; `xs` of the series are not looked at, `ys` have an entry a group."""
    values = [y for item in series for y in item.ys if y is not None]
    if not values:
        return Markup("")
    highest = nice(max(values))
    step = (_WIDTH - _LEFT - _RIGHT) / len(groups)
    width = 0.8 * step / len(series)
    space = _HEIGHT - _TOP - _BOTTOM
    bars = Markup("").join(
        Markup(
            '<rect class="d{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}, {}: {}</title></rect>'
        ).format(
            _colour(item, number), _LEFT + step * (group + 0.1) + width * number, _TOP + space * (1 - y / highest),
            max(width - 1, 1), space * y / highest, item.name, groups[group], short(y),
        )
        for number, item in enumerate(series)
        for group, y in enumerate(item.ys)
        if y is not None
    )  # fmt: skip
    axis = _x_axis([(_LEFT + step * (index + 0.5), name) for index, name in enumerate(groups)])
    grid = _grid(highest, lambda y: _TOP + space * (1 - y / highest))
    return _framed(Markup("").join([grid, axis, bars]), series, title, x_label, y_label)


def _colour(item: Series, number: int) -> int:
    return (number if item.colour is None else item.colour) % _SERIES


def nice(value: float) -> float:
    """The least of 1, 2, 4, 6, 8 times a power of ten that is not below a value; 1 for none."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value * 0.999)


def short(value: float) -> str:
    """A number in few signs: `0.25`, `12`, `1,500`."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _powers(low: float, high: float) -> list[float]:
    candidates = [factor * 10**power for power in range(12) for factor in (1, 3)]
    return [value for value in candidates if low <= value <= high] or [low, high]


def _grid(highest: float, down: Place) -> Markup:
    parts = []
    for step in range(5):
        y = highest * step / 4
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" class="end">{}</text>'
            ).format(_LEFT, _WIDTH - _RIGHT, down(y), down(y), _LEFT - 6, down(y) + 4, short(y))
        )
    return Markup("").join(parts)


def _x_axis(ticks: Sequence[tuple[float, str]]) -> Markup:
    return Markup("").join(
        Markup('<text x="{:.1f}" y="{}" class="mid">{}</text>').format(x, _HEIGHT - _BOTTOM + 17, text)
        for x, text in ticks
    )


def _framed(content: Markup, series: Sequence[Series], title: str, x_label: str, y_label: str) -> Markup:
    legend = Markup("").join(
        Markup('<li><i class="k{}"></i>{}</li>').format(_colour(item, number), item.name)
        for number, item in enumerate(series)
    )
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption><svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}">'
        '{content}<text x="{x}" y="{bottom}" class="mid">{x_label}</text>'
        '<text transform="translate(12 {middle}) rotate(-90)" class="mid">{y_label}</text></svg>'
        '<ul class="legend">{legend}</ul></figure>'
    ).format(
        title=title, w=_WIDTH, h=_HEIGHT, content=content, x=(_LEFT + _WIDTH - _RIGHT) / 2, bottom=_HEIGHT - 6,
        x_label=x_label, middle=(_TOP + _HEIGHT - _BOTTOM) / 2, y_label=y_label, legend=legend,
    )  # fmt: skip
