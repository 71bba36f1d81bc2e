"""Cosines of features, their mean off the diagonal, and the draw of proposals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.eval.similarity import (
    comparison,
    cosine_matrix,
    draw_matrices,
    largest_first,
    mean_off_diagonal,
    sample_rows,
)


def test_cosines_by_hand() -> None:
    got = cosine_matrix(np.asarray([[1, 0], [3, 3], [-2, 0], [0, 0]], np.float32))
    half = np.sqrt(0.5)
    expected = [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]]
    assert got.dtype == np.float32
    assert got == pytest.approx(np.asarray(expected), abs=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_any_number_of_vectors_of_any_length(n: int, size: float) -> None:
    features = np.random.default_rng(n).standard_normal((n, 5)) * size
    got = cosine_matrix(features.astype(np.float32))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert got.shape == (n, n)
    assert got == pytest.approx(unit @ unit.T, abs=1e-5)


@given(
    features=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 7), st.integers(0, 5)),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    ),
    factor=st.sampled_from([0.125, 2.0, 64.0]),
)
def test_cosines_are_symmetric_bounded_and_without_scale(features: Any, factor: float) -> None:
    got = cosine_matrix(features)
    assert np.array_equal(got, got.T)
    assert (np.abs(got) <= 1).all()
    filled = features.any(axis=1)
    assert np.diag(got) == pytest.approx(filled.astype(np.float32), abs=1e-5)
    assert (got[~filled] == 0).all()
    assert cosine_matrix(features * np.float32(factor)) == pytest.approx(got, abs=1e-5)


def test_features_without_a_negative_value_have_no_negative_cosine() -> None:
    features = np.maximum(np.random.default_rng(0).standard_normal((7, 9)), 0)
    assert cosine_matrix(features).min() >= 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros(3), r"shape \(n, d\)"),
        (np.asarray([[np.nan]]), "finite"),
        (np.asarray([[np.inf]]), "finite"),
    ],
)
def test_what_is_no_features_is_refused(features: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cosine_matrix(features)


@pytest.mark.parametrize(
    ("matrix", "mean"),
    [
        (np.zeros((0, 0)), np.nan),
        (np.ones((1, 1)), np.nan),
        (np.asarray([[1, 0.25], [0.75, 1]]), 0.5),
        (np.eye(6), 0),
        (np.ones((7, 7)), 1),
    ],
)
def test_mean_off_the_diagonal(matrix: Any, mean: float) -> None:
    assert mean_off_diagonal(matrix) == pytest.approx(mean, nan_ok=True)


def test_only_a_square_has_a_diagonal() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(n, n\), got \(2, 3\)"):
        mean_off_diagonal(np.zeros((2, 3)))


@given(count=st.integers(0, 40), most=st.integers(0, 40), seed=st.integers(0, 5), key=st.text(max_size=5))
def test_a_draw_is_without_repetition_and_repeatable(count: int, most: int, seed: int, key: str) -> None:
    rows = sample_rows(count, most, seed, key)
    assert len(rows) == min(count, most)
    assert (np.diff(rows) > 0).all()
    assert not len(rows) or (rows[0] >= 0 and rows[-1] < count)
    assert np.array_equal(rows, sample_rows(count, most, seed, key))


def test_a_draw_depends_on_seed_and_image_and_is_fair() -> None:
    assert sample_rows(1000, 5, 0, "a").tolist() != sample_rows(1000, 5, 1, "a").tolist()
    assert sample_rows(1000, 5, 0, "a").tolist() != sample_rows(1000, 5, 0, "b").tolist()
    hits = np.bincount(np.concatenate([sample_rows(10, 3, 0, str(key)) for key in range(1000)]), minlength=10)
    assert (np.abs(hits - 300) < 75).all()  # five deviations of a binomial count


@pytest.mark.parametrize(("count", "most"), [(-1, 3), (3, -1)])
def test_negative_numbers_are_refused(count: int, most: int) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        sample_rows(count, most, 0, "a")


@pytest.mark.parametrize("images", [0, 1, 2, 6, 7])
def test_sets_side_by_side(images: int) -> None:
    """The second is lower by 0.1 in every image; nothing is known of the last image of the third."""
    cosines = np.tile(np.asarray([0.5, 0.4, 0.6]), (images, 1)) + np.arange(images)[:, None] / 100
    cosines[-1:, 2] = np.nan
    first, second, third = comparison(["a", "b", "c"], cosines, cosines / 2)
    assert (first["images"], third["images"]) == (images, max(images - 1, 0))
    if not images:
        assert first == {"set": "a", "images": 0} | {
            key: None for key in first if key not in ("set", "images")
        }
        return
    assert (second["lower"], second["lower_share"]) == (pytest.approx(0.1), 1)
    assert second["lower_error"] == pytest.approx(0, abs=1e-9)
    assert second["mean_iou"] == pytest.approx(second["mean"] / 2)
    assert (third["lower_share"], third["deviation"]) == (
        (0, pytest.approx(np.arange(images - 1).std() / 100)) if images > 1 else (None, None)
    )


@pytest.mark.filterwarnings("ignore:Attempting to set identical")
@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_matrices_can_be_drawn(n: int) -> None:
    matrix = np.eye(n, dtype=np.float32)
    assert draw_matrices({"a": matrix, "b": -matrix}, "two sets").startswith(b"\x89PNG")


def test_largest_first() -> None:
    boxes = as_boxes([[0, 0, 5, 5], [0, 0, 9, 9], [0, 0, 1, 20]])
    assert largest_first(boxes, 2).tolist() == [boxes[1].tolist(), boxes[0].tolist()]
    assert len(largest_first(boxes, 0)) == 3 and len(largest_first(boxes[:0], 0)) == 0
