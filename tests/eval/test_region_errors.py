"""What is wrong with RoIs, and what that says of their losses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.eval.loss_plot import draw_losses
from weaksam_cli.eval.region_errors import (
    FloatVector,
    ForegroundRegions,
    dropped_sets,
    errors_of,
    evidence,
    loss_bins,
    normalised,
    percentile_cut,
    pseudo_box_quality,
    ranking,
    wilson,
)


def floats(values: Any) -> FloatVector:
    return np.asarray(values, np.float32)


GOOD, HALF, FAR = [0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]


@pytest.mark.parametrize(
    ("regions", "pseudo", "truth", "chosen", "quality"),
    [
        ([], [GOOD], [GOOD], [], []),
        ([GOOD], [], [GOOD], [-1], [0]),
        ([GOOD], [GOOD], [], [0], [0]),
        ([GOOD], [GOOD], [FAR], [0], [0]),
        ([GOOD, HALF], [HALF, GOOD], [GOOD], [1, 0], [1, 0.5]),  # each its nearest pseudo box
        ([HALF], [GOOD], [HALF, GOOD], [0], [1]),  # the pseudo box counts, not the RoI
        ([GOOD] * 6, [GOOD, GOOD], [GOOD], [0] * 6, [1] * 6),  # the first of equals
        ([FAR, *[GOOD] * 6], [GOOD], [GOOD], [0] * 7, [1] * 7),
    ],
)
def test_the_pseudo_box_of_a_region(
    regions: Any, pseudo: Any, truth: Any, chosen: list[int], quality: list[float]
) -> None:
    got = pseudo_box_quality(as_boxes(regions), as_boxes(pseudo), as_boxes(truth), plus_one=False)
    assert (got[0].tolist(), got[1].tolist()) == (chosen, pytest.approx(quality))


def test_the_published_iou_counts_a_pixel_more() -> None:
    _, plain = pseudo_box_quality(as_boxes([HALF]), as_boxes([HALF]), as_boxes([GOOD]), plus_one=False)
    _, more = pseudo_box_quality(as_boxes([HALF]), as_boxes([HALF]), as_boxes([GOOD]), plus_one=True)
    assert (plain.item(), more.item()) == pytest.approx((0.5, 66 / 121))


def test_errors_at_their_thresholds() -> None:
    found = errors_of(floats([0, 0.25, 0.26, 0.49, 0.5, 0.7, 0.71]))
    assert found.T.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]]


LOSSES = hnp.arrays(np.float32, st.integers(0, 7), elements=st.floats(0, 100, width=32))


@given(values=LOSSES, bins=st.integers(2, 9), how=st.sampled_from(["min_max", "max"]))
def test_every_region_is_in_one_bin(values: Any, bins: int, how: Any) -> None:
    scaled, wrong = normalised(values, how), np.arange(len(values)) % 2 == 0
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert (np.argsort(scaled, kind="stable") == np.argsort(values, kind="stable")).all() or len(
        set(scaled)
    ) < len(set(values))
    found = loss_bins(scaled, wrong, bins)
    assert (found.regions.sum(), found.wrong.sum()) == (len(values), wrong.sum())
    assert (found.wrong <= found.regions).all() and len(found.regions) == bins


def test_the_largest_loss_is_in_the_last_bin() -> None:
    found = loss_bins(normalised(floats([1, 2, 3]), "min_max"), np.array([True, False, True]), 2)
    assert (found.regions.tolist(), found.wrong.tolist()) == ([1, 2], [1, 1])
    assert normalised(floats([1, 2, 4]), "max").tolist() == [0.25, 0.5, 1]
    assert normalised(floats([3, 3]), "min_max").tolist() == [0, 0]


def test_wilson_by_hand() -> None:
    low, high = wilson(np.array([0, 5, 10, 0]), np.array([10, 10, 10, 0]))
    assert low[:3] == pytest.approx([0, 0.2366, 0.7225], abs=1e-4)
    assert high[:3] == pytest.approx([0.2775, 0.7634, 1], abs=1e-4)
    assert np.isnan([low[3], high[3]]).all()


@pytest.mark.parametrize(
    ("values", "wrong", "expected"),
    [
        ([], [], None),
        ([1.0], [True], None),
        ([1.0, 2.0], [False, True], 1),
        ([1.0, 2.0], [True, False], 0),
        ([1.0, 1.0], [True, False], 0.5),
    ],
)
def test_ranking(values: Any, wrong: Any, expected: float | None) -> None:
    assert ranking(np.asarray(values, np.float32), np.asarray(wrong, np.bool_)) == expected


def regions(count: int) -> ForegroundRegions:
    """Wrong are those of large losses, in turn for classification and regression."""
    index = np.arange(count)
    classification, regression = floats(index % 3 * 2.5), floats(index % 2 * 1.5)
    wrong = np.stack([classification > 4, np.zeros(count, bool), index >= 0], axis=1)
    return ForegroundRegions(classification, regression, wrong)


def test_what_each_semantics_drops() -> None:
    found = {name: flags.nonzero()[0].tolist() for name, flags in dropped_sets(regions(7), 4, 1).items()}
    assert found == {
        "intersection": [5],
        "separate, from classification": [2, 5],
        "separate, from regression": [1, 3, 5],
        "union_fg": [1, 2, 3, 5],
    }


def test_it_drops_what_the_training_drops() -> None:
    """`retrain.heads.find_dropped`, where every RoI is foreground."""
    torch = pytest.importorskip("torch")
    heads = pytest.importorskip("weaksam_cli.retrain.heads")
    from weaksam_cli.retrain.rcnn import RoiDrop

    given = regions(7)
    losses = torch.from_numpy(given.classification), torch.from_numpy(given.regression)
    found = dropped_sets(given, 4, 1)
    for name in ("intersection", "separate", "union_fg"):
        drop = RoiDrop(semantics=name, tau_cls=4, tau_reg=1)
        dropped = heads.find_dropped(*losses, torch.arange(7), drop)
        suffixes = (", from classification", ", from regression") if name == "separate" else ("", "")
        for flags, suffix in zip(dropped, suffixes, strict=True):
            assert flags.tolist() == found[name + suffix].tolist()


@pytest.mark.parametrize(
    ("count", "tau", "dropped"), [(0, 90, 0), (1, 90, 0), (9, 90, 0), (10, 90, 1), (29, 90, 2), (10, 100, 0)]
)
def test_the_cut_of_query_drop(count: int, tau: int, dropped: int) -> None:
    costs = np.arange(count, dtype=np.float32)
    assert int((costs > percentile_cut(costs, tau)).sum()) == dropped


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_evidence_is_json_and_can_be_drawn(count: int) -> None:
    given = regions(count)
    taus = {"tau_cls": 4.0, "tau_reg": 1.0}
    found = evidence(given, dropped_sets(given, 4, 1), taus, 5, "min_max")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["foreground"]["regions"] == count
    assert sum(found["curves"]["regression"]["regions"]) == count
    content = {"dataset": "d", "split": "s", "images": 1, "iterations": 2, **found}
    assert draw_losses(content).startswith(b"\x89PNG")
    if count == 7:
        assert found["dropped"]["union_fg"]["wrong"] == {"IoU < 0.5": 0.5, "IoU <= 0.25": 0, "IoU <= 0.7": 1}
        assert found["dropped"]["intersection"]["share"] == pytest.approx(1 / 7)
