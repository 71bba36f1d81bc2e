"""The plot of recall curves: a PNG of a stated size, the same bytes for the same curves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from weaksam_cli.eval.recall_curve import RecallCurve
from weaksam_cli.eval.recall_plot import draw_recall


def curve(top: float, thresholds: tuple[float, ...] = (0.5, 0.75, 0.9)) -> RecallCurve:
    shares: dict[float, tuple[float, ...]] = {
        value: (top / 4, top / 2, top * (1 - value / 2)) for value in thresholds
    }
    return RecallCurve((10, 100, None), (10.0, 98.5, 320.0), shares)


@pytest.mark.parametrize("names", [["a"], ["a", "b"], [f"proposals of kind {n}" for n in range(6)]])
def test_a_panel_a_threshold_and_a_line_a_curve(names: list[str]) -> None:
    curves = {name: curve(0.9 - 0.1 * index) for index, name in enumerate(names)}
    drawn = draw_recall(curves, "Recall")
    assert drawn == draw_recall(curves, "Recall")
    sample = Image.open(io.BytesIO(drawn)).convert("RGB")
    assert sample.size == (1350, 585)
    colours = {colour for _, colour in sample.getcolors(1 << 20) or []}
    lines = [(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75)]
    assert [line in colours for line in lines] == [index < len(names) for index in range(6)]


def test_nothing_measured_is_drawn_as_nothing() -> None:
    nothing = RecallCurve((10, None), (0.0, 0.0), {0.5: (np.nan, np.nan)})
    assert Image.open(io.BytesIO(draw_recall({"a": nothing}, "Recall"))).size == (1350, 585)


def test_curves_must_fit_together() -> None:
    with pytest.raises(ValueError, match="same thresholds"):
        draw_recall({}, "Recall")
    with pytest.raises(ValueError, match="same thresholds"):
        draw_recall({"a": curve(0.5), "b": curve(0.5, (0.5,))}, "Recall")
