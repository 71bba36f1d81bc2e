"""Mean and spread over seeds, as a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from weaksam_cli.engine.sweeps import Point, sweep_points
from weaksam_cli.eval.results import MetricRow
from weaksam_cli.report.spread import COLUMNS, Spread, as_csv, as_json, by_setting, table

METRIC = ("test", "retrain", "VOC AP50 (weaksam)")


def points(seeds: list[int]) -> list[Point]:
    return sweep_points("retrain", "faster-rcnn-lite0-fpn", [], {"roi_drop.tau_reg": [0.8, 1]}, seeds)


def row(variant: str, name: str, value: float | None, *, share: bool = True) -> tuple[str, MetricRow]:
    return "test", MetricRow(stage="retrain", variant=variant, name=name, value=value, share=share)


@pytest.mark.parametrize(
    ("values", "text", "mean", "deviation"),
    [
        ([], "-", None, None),
        ([0.5], "50.0", 0.5, None),
        ([0.4, 0.6], "50.0 ± 14.1", 0.5, 0.02**0.5),
        ([0.25] * 6, "25.0 ± 0.0", 0.25, 0.0),
        ([0.1 * n for n in range(1, 8)], "40.0 ± 21.6", 0.4, 0.2160247),
    ],
)
def test_spread(values: list[float], text: str, mean: float | None, deviation: float | None) -> None:
    found = Spread(METRIC, True, dict(enumerate(values)))
    assert found.text == text
    assert (found.mean, found.deviation) == pytest.approx((mean, deviation))


def test_a_count_is_no_share() -> None:
    assert Spread(METRIC, False, {0: 2.0, 1: 3.0}).text == "2.5 ± 0.7"


@pytest.fixture
def rows() -> dict[str, list[tuple[str, MetricRow]]]:
    """Setting 0.8 with two seeds, setting 1 with one, whose second protocol nobody knows."""
    found = {}
    for number, variant in enumerate(("tau_reg-0.8_s0", "tau_reg-0.8_s1", "tau_reg-1_s0")):
        value = 0.3 + number / 10
        found[variant] = [
            row(variant, METRIC[2], value),
            row(variant, "VOC AP50 (mist)", None if number else value),
        ]
    return found


def test_a_row_a_setting_and_a_column_a_headline(rows: Any) -> None:
    settings = by_setting(points([0, 1]), rows)
    assert table(settings, "test") == (
        ["roi_drop.tau_reg", "seeds", "VOC AP50"],
        [["0.8", "2", "35.0 ± 7.1"], ["1", "1", "50.0"]],
    )
    assert table(settings, "trainval") == (["roi_drop.tau_reg", "seeds"], [["0.8", "2"], ["1", "1"]])
    assert table([], "test") == (["seeds"], [])


def test_programs_get_every_figure_of_every_seed(rows: Any) -> None:
    first, second = as_json(by_setting(points([0, 1]), rows))
    assert first["settings"] == {"roi_drop.tau_reg": 0.8}
    assert first["variants"] == {"0": "tau_reg-0.8_s0", "1": "tau_reg-0.8_s1"}
    assert first["figures"][0]["values"] == {"0": 0.3, "1": pytest.approx(0.4)}
    assert second["figures"][1] == {
        "split": "test", "stage": "retrain", "name": "VOC AP50 (mist)", "share": True, "mean": None,
        "deviation": None, "values": {},
    }  # fmt: skip


def test_csv_can_be_read_again(rows: Any) -> None:
    text = as_csv(by_setting(points([0, 1]), rows))
    assert COLUMNS in text.splitlines()[0]
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["roi_drop.tau_reg"] for line in lines] == ["0.8", "0.8", "1", "1"]
    assert float(lines[0]["mean"]) == pytest.approx(0.35)
    assert (lines[1]["seed 0"], lines[1]["seed 1"], lines[3]["mean"]) == ("0.3", "", "")
