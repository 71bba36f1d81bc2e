from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_cli.prompt.maximum_filter import maximum_filter, odd_window


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (2, 3), (4, 5), (17, 17), (128, 129), (129, 129)])
def test_an_even_window_grows_by_one(asked: int, used: int) -> None:
    assert odd_window(asked) == used


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        odd_window(0)


@pytest.mark.parametrize("window", [0, 2, -3])
def test_the_filter_wants_an_odd_window(window: int) -> None:
    with pytest.raises(ValueError, match="odd side"):
        maximum_filter(np.zeros((3, 3), np.float32), window)


def test_the_filter_wants_one_map() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\), got \(1, 3, 3\)"):
        maximum_filter(np.zeros((1, 3, 3), np.float32), 3)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_an_empty_map_stays_empty(shape: tuple[int, int]) -> None:
    assert maximum_filter(np.zeros(shape, np.float32), 3).shape == shape


@settings(max_examples=100, deadline=None)
@given(
    heat=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(-2, 2, width=16)
    ),
    half=st.integers(0, 15),
)
def test_it_equals_max_pooling(heat: np.ndarray[tuple[int, int], np.dtype[np.float32]], half: int) -> None:
    window = 2 * half + 1
    height, width = heat.shape
    padded = np.pad(heat, half, constant_values=-np.inf)
    expected = np.array(
        [[padded[y : y + window, x : x + window].max() for x in range(width)] for y in range(height)]
    )
    np.testing.assert_array_equal(maximum_filter(heat, window), expected)
