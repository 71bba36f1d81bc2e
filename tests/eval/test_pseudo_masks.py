from __future__ import annotations

import numpy as np
import pytest

from tests.eval.masks import CLASSES, SIZE, found, objects, rectangles
from weaksam_cli.eval.pseudo_masks import mask_quality


def test_the_best_mask_of_each_object() -> None:
    """Cats: covered by .8 (two masks, the better one), by .6, and by none. A dog that is covered by a cat's mask is not."""
    wanted = rectangles([[0, 0, 100, 10], [0, 20, 100, 30], [0, 40, 100, 50], [0, 60, 100, 70]])
    offered = rectangles([[0, 0, 80, 10], [0, 0, 60, 10], [0, 20, 60, 30], [0, 60, 100, 70]])
    truth = {"a": objects(wanted, [0, 0, 0, 1])}
    got = mask_quality(truth, {"a": found(offered, [0, 0, 0, 0], [0.9, 0.8, 0.7, 0.6])}, CLASSES, {"a": SIZE})
    assert got.iou.values == pytest.approx({"cat": (0.8 + 0.6) / 3, "dog": 0})
    assert got.iou.total == pytest.approx((0.8 + 0.6) / 4)
    assert got.iou.support == {"cat": 3, "dog": 1}
    assert got.covered[0.5].values == pytest.approx({"cat": 2 / 3, "dog": 0})
    assert got.covered[0.7].values == pytest.approx({"cat": 1 / 3, "dog": 0})
    assert got.precision.values == pytest.approx({"cat": 2 / 4, "dog": np.nan}, nan_ok=True)
    assert got.recall.total == pytest.approx(2 / 4)


def test_flagged_objects_count_neither_way() -> None:
    pair = rectangles([[0, 0, 100, 10], [0, 20, 100, 30]])
    truth = {"a": objects(pair, [0, 0], [False, True])}
    got = mask_quality(truth, {"a": found(pair, [0, 0], [0.9, 0.8])}, CLASSES, {"a": SIZE})
    assert got.iou.support == {"cat": 1, "dog": 0}
    assert (got.iou.total, got.precision.total, got.recall.total) == (1, 1, 1)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_any_number_of_masks(n: int) -> None:
    drawn = rectangles([[20 * i, 0, 20 * i + 10, 10] for i in range(n)])
    got = mask_quality(
        {"a": objects(drawn, [0] * n), "b": objects([], [])}, {"a": found(drawn, [0] * n, [1.0] * n)},
        CLASSES, {"a": SIZE, "b": SIZE},
    )  # fmt: skip
    expected = pytest.approx(1 if n else np.nan, nan_ok=True)
    assert got.iou.total == expected
    assert got.covered[0.7].total == expected
    assert got.precision.total == expected
