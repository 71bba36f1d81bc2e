"""Leaderboards: which figure is drawn, in which order, and that a plot of any number of rows is one."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from weaksam_cli.report.board import draw_board, plotted, ranked
from weaksam_cli.report.spread import Setting, Spread

CORLOC, AP50 = ("trainval", "wsod", "CorLoc (mist)"), ("trainval", "wsod", "VOC AP50 (weaksam)")
MINUTES = ("trainval", "wsod", "training minutes")


def setting(method: str, source: str, *values: float, metric: tuple[str, str, str] = CORLOC) -> Setting:
    seeds = dict(enumerate(values))
    variants = {seed: f"{method}_{source}_s{seed}" for seed in seeds}
    return Setting({"method": method, "proposals": source}, variants, {metric: Spread(metric, True, seeds)})


def board(count: int) -> list[Setting]:
    return [setting(f"m{n}", source, 0.1 * n, 0.1 * n + 0.02) for n in range(count) for source in "ab"]


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_a_plot_of_any_number_of_methods(count: int) -> None:
    settings = board(count)
    drawn = draw_board(settings, "trainval")
    assert drawn == draw_board(settings, "trainval"), "equal figures give equal bytes"
    size = Image.open(io.BytesIO(drawn)).size
    assert size[0] == 1000 and size[1] > 100


@pytest.mark.parametrize(
    ("metrics", "split", "found"),
    [
        ([AP50, CORLOC], "trainval", CORLOC),
        ([AP50, MINUTES], "trainval", AP50),
        ([MINUTES], "trainval", None),
        ([CORLOC], "test", None),
        ([], "trainval", None),
    ],
)
def test_which_figure_is_drawn(
    metrics: list[tuple[str, str, str]], split: str, found: tuple[str, str, str] | None
) -> None:
    assert plotted([setting("m", "a", 0.5, metric=metric) for metric in metrics], split) == found


def test_the_best_stands_first_and_what_has_no_figure_last() -> None:
    settings = [
        setting("none", "a"),
        setting("low", "a", 0.1),
        setting("low", "b", 0.4, 0.2),
        setting("high", "a", 0.35),
        setting("absent", "a", 0.9, metric=AP50),
    ]
    assert [*ranked(settings, CORLOC)] == ["high", "low", "none", "absent"]
    assert ranked(settings, CORLOC)["low"]["b"].text == "30.0 ± 14.1"
