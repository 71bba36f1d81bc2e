"""Grids, seeds, and the names of the variants of a sweep."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.names import plain_word
from weaksam_cli.engine.freshness import flatten
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.engine.sweeps import (
    parse_grid,
    parse_seeds,
    short_key,
    sweep_points,
    value_text,
    variant_name,
)
from weaksam_cli.errors import UserError

RETRAIN = "faster-rcnn-lite0-fpn"
KEYS = list(flatten(load_recipe("retrain", RETRAIN).resolved()))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["a.b=0.8,1.0, 1.2"], {"a.b": [0.8, 1.0, 1.2]}),
        (["a=separate,union_fg", "b=true,null"], {"a": ["separate", "union_fg"], "b": [True, None]}),
        (["sides=[256],[256, 320]"], {"sides": [[256], [256, 320]]}),
    ],
)
def test_grids(texts: list[str], expected: dict[str, Any]) -> None:
    assert parse_grid(texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "expected key=value,value, got 'a'"),
        (["=1"], "expected key=value,value"),
        (["a="], "expected key=value,value"),
        (["a=[1"], "the values of 'a' are not readable as YAML"),
        (["a=1", "a=2"], "the key 'a' stands twice. Give all its values in one --grid"),
    ],
)
def test_what_is_no_grid(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_grid(texts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [(None, [7]), ("0", [0]), ("0, 1,2", [0, 1, 2]), ("5,3", [5, 3])]
)
def test_seeds(text: str | None, expected: list[int]) -> None:
    assert parse_seeds(text, 7) == expected


@pytest.mark.parametrize("text", ["", "0,", "-1", "1.5", "a", "0,0", "9" * 30])
def test_what_is_no_seed(text: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text, 0)


@pytest.mark.parametrize(
    ("grid", "seeds", "expected"),
    [
        ({}, [0, 1], ["s0", "s1"]),
        ({"roi_drop.tau_reg": [0.8, 1]}, [0, 1], [f"tau_reg-{v}_s{s}" for s in (0, 1) for v in ("0.8", "1")]),
        (
            {"roi_drop.tau_reg": [0.8], "roi_drop.semantics": ["separate", "union_fg"]},
            [3],
            ["semantics-separate_tau_reg-0.8_s3", "semantics-union_fg_tau_reg-0.8_s3"],
        ),
        (
            {"train_images.short_sides": [[256], [256, 320]]},
            [0],
            ["short_sides-256_s0", "short_sides-256-320_s0"],
        ),
    ],
)
def test_points(grid: dict[str, list[Any]], seeds: list[int], expected: list[str]) -> None:
    points = sweep_points("retrain", RETRAIN, [], grid, seeds)
    assert [point.variant for point in points] == expected
    for point in points:
        flat = flatten(point.recipe.resolved())
        assert {key: flat[key] for key in grid} == point.settings


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"roi_drop.tau_rg": [1]},
            "--grid roi_drop.tau_rg=1: unknown key 'roi_drop.tau_rg', did you mean 'tau_reg'?",
        ),
        (
            {"roi_drop.semantics": ["both"]},
            "Input should be 'intersection', 'separate' or 'union_fg', got 'both'",
        ),
        (
            {"roi_drop.tau_cls": [3, -1]},
            "--grid roi_drop.tau_cls=-1: roi_drop.tau_cls: Input should be greater",
        ),
        ({"roi_drop.tau_cls": [3, 3.0]}, "--grid: roi_drop.tau_cls=3 stands twice"),
        ({"method": ["none"]}, "Allowed: dino, faster_rcnn"),
        ({"..": [1]}, "--grid: '..' is no key"),
    ],
)
def test_a_point_that_cannot_be_is_refused(grid: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep_points("retrain", RETRAIN, [], grid, [0])
    assert message in str(caught.value)


def test_what_is_wrong_with_all_is_not_said_of_the_grid() -> None:
    with pytest.raises(UserError, match=r"--set roi_drop\.tau_cls=-1"):
        sweep_points("retrain", RETRAIN, ["roi_drop.tau_cls=-1"], {"roi_drop.tau_reg": [1]}, [0])


@pytest.mark.parametrize(
    ("key", "expected"),
    [("roi_drop.tau_cls", "tau_cls"), ("inference.max_size", "inference.max_size"), ("network", "network")],
)
def test_short_keys(key: str, expected: str) -> None:
    """`train_images` has a `max_size`, too."""
    assert short_key(key, KEYS) == expected


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**6), 10**6)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    seed=st.integers(0, 2**63 - 1),
    prefix=st.sampled_from(["", "top1"]),
)
def test_a_name_can_be_that_of_a_folder_whatever_the_value(value: Any, seed: int, prefix: str) -> None:
    name = variant_name({"roi_drop.tau_cls": value}, seed, KEYS, prefix)
    assert plain_word(name, "variant", where="") == name and name.isascii()
    assert name == variant_name({"roi_drop.tau_cls": value}, seed, KEYS, prefix)
    assert name.endswith(f"_s{seed}") and name.startswith(prefix)


@given(first=st.floats(-1e6, 1e6), second=st.floats(-1e6, 1e6))
def test_other_numbers_have_other_names(first: float, second: float) -> None:
    assert (value_text(first) == value_text(second)) == (repr(first) == repr(second))


def test_a_long_name_is_cut_and_stays_one_of_its_own() -> None:
    names = [
        variant_name({f"group.a_rather_long_key_number_{n}": last for n in range(9)}, 0, [])
        for last in (1, 2)
    ]
    assert max(map(len, names)) <= 100 and names[0] != names[1]
