"""What retraining changed, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from weaksam_cli.eval.table import format_value, gains, source_of, source_table


def _item(
    stage: str, value: float | None, variant: str = "", name: str = "VOC AP50 (weaksam)"
) -> dict[str, Any]:
    return {"stage": stage, "variant": variant, "name": name, "value": value, "share": True}


@pytest.mark.parametrize(
    ("items", "lines"),
    [
        ([], []),
        ([_item("retrain", 0.5)], []),
        (
            [_item("wsod", 0.302), _item("retrain", 0.32)],
            ["retrain: VOC AP50 (weaksam) 30.2 % -> 32.0 % (+1.8)"],
        ),
        (
            [_item("wsod", 0.3), _item("retrain", 0.25, "no-drop"), _item("retrain", None)],
            ["retrain@no-drop: VOC AP50 (weaksam) 30.0 % -> 25.0 % (-5.0)"],
        ),
        ([_item("wsod", 0.3), _item("retrain", 0.4, name="COCO AP")], []),
    ],
)
def test_gains(items: list[dict[str, Any]], lines: list[str]) -> None:
    assert gains(items) == lines


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"value": None, "share": True}, "-"),
        ({"value": 0.5, "share": True}, "50.0 %"),
        ({"value": 3.21, "share": False}, "3.2"),
    ],
)
def test_values(item: dict[str, Any], text: str) -> None:
    assert format_value(item) == text


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
        {**_item("propose", 12.0, name="proposals an image: grid"), "share": False},
        _item("propose", None, "b", name="recall at IoU 0.75: fine"),
    ]
    assert source_table(items) == (
        ["artifact", "source", "IoU 0.5", "proposals an image", "IoU 0.75"],
        [["propose", "grid", "50.0 %", "12.0", ""], ["propose@b", "fine", "", "", "-"]],
    )
    assert source_table([]) == (["artifact", "source"], [])
