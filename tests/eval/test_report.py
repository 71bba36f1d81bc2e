"""The results file as a table and as a plot."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from weaksam_cli.eval.recall import RecallCurve
from weaksam_cli.eval.report import draw_recall, gains, source_of, source_table
from weaksam_cli.eval.results import Curve, MetricRow


def _item(
    stage: str,
    value: float | None,
    variant: str = "",
    name: str = "VOC AP50 (weaksam)",
    share: bool = True,
) -> MetricRow:
    return MetricRow(stage=stage, variant=variant, name=name, value=value, share=share)


@pytest.mark.parametrize(
    ("items", "lines"),
    [
        ([], []),
        ([_item("retrain", 0.5)], []),
        (
            [_item("wsod", 0.302), _item("retrain", 0.32)],
            ["retrain: VOC AP50 30.2 % -> 32.0 % (+1.8)"],
        ),
        (
            [_item("wsod", 0.3), _item("retrain", 0.25, "no-drop"), _item("retrain", None)],
            ["retrain@no-drop: VOC AP50 30.0 % -> 25.0 % (-5.0)"],
        ),
        ([_item("wsod", 0.3), _item("retrain", 0.4, name="COCO AP")], []),
    ],
)
def test_gains(items: list[MetricRow], lines: list[str]) -> None:
    assert gains(items) == lines


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (_item("wsod", None), "-"),
        (_item("wsod", 0.5), "50.0 %"),
        (_item("wsod", 3.21, share=False), "3.2"),
    ],
)
def test_values(item: MetricRow, text: str) -> None:
    assert item.text == text


@pytest.mark.parametrize(
    ("stage", "name", "source"),
    [
        ("propose", "recall at IoU 0.5", ""),
        ("propose", "recall at IoU 0.5: grid", "grid"),
        ("propose", "proposals an image: selective-search", "selective-search"),
        ("baseline", "CorLoc (mist): whole image", ""),
        ("prompt", "fine: best peak inside a box", ""),
    ],
)
def test_the_source_in_a_name(stage: str, name: str, source: str) -> None:
    assert source_of(_item(stage, 0.5, name=name)) == source


def test_a_row_a_source() -> None:
    items = [
        _item("propose", 0.5, name="recall at IoU 0.5: grid"),
        _item("propose", 12.0, name="proposals an image: grid", share=False),
        _item("propose", None, "b", name="recall at IoU 0.75: fine"),
    ]
    assert source_table(items) == (
        ["artifact", "source", "IoU 0.5", "proposals an image", "IoU 0.75"],
        [["propose", "grid", "50.0 %", "12.0", ""], ["propose@b", "fine", "", "", "-"]],
    )
    assert source_table([]) == (["artifact", "source"], [])


def curve(top: float) -> Curve:
    shares: dict[float, tuple[float, ...]] = {
        value: (top / 4, top / 2, top * (1 - value / 2)) for value in (0.5, 0.75, 0.9)
    }
    return read(RecallCurve((10, 100, None), (10.0, 98.5, 320.0), shares))


def read(written: RecallCurve) -> Curve:
    return Curve.model_validate({"stage": "propose", **written.as_json()})


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


def test_nothing_known_is_drawn_as_nothing() -> None:
    nothing = read(RecallCurve((10, None), (0.0, 0.0), {0.5: (np.nan, np.nan)}))
    assert Image.open(io.BytesIO(draw_recall({"a": nothing}, "Recall"))).size == (1350, 585)
