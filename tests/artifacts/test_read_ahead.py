"""Larger pieces of a dataset give the entries that single requests give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.artifacts import read_ahead
from weaksam_cli.artifacts.read_ahead import ReadAhead
from weaksam_cli.artifacts.schema import Array

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=30)


class Dataset:
    """Notes what is asked of it, and refuses pieces with an entry that cannot be."""

    name = "/boxes"

    def __init__(self, entries: Array, bad: int | None = None) -> None:
        self.entries, self.bad, self.asked = entries, bad, list[tuple[int, int]]()
        self.dtype, self.shape = entries.dtype, entries.shape

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, rows: slice) -> Array:
        self.asked.append((rows.start, rows.stop))
        if self.bad is not None and rows.start <= self.bad < rows.stop:
            raise ValueError("this cannot be")
        found: Array = self.entries[rows]
        return found


def ahead_of(data: Dataset) -> ReadAhead:
    return ReadAhead(data.read, cast(Any, data))


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_one_after_the_other(count: int, shape: tuple[int, ...]) -> None:
    data = Dataset(np.arange(count * int(np.prod(shape)), dtype=np.float32).reshape(count, *shape))
    rows = ahead_of(data)
    for index in range(count):
        assert np.array_equal(rows(slice(index, index + 1)), data.entries[index : index + 1])
    assert data.asked == {0: [], 1: [(0, 1)], 2: [(0, 1), (1, 2)], 6: [(0, 1), (1, 3), (3, 6)]}.get(
        count, [(0, 1), (1, 3), (3, 7)]
    )


@given(SPANS)
def test_in_any_order(spans: list[tuple[int, int]]) -> None:
    data = Dataset(np.arange(50))
    rows = ahead_of(data)
    for start, count in spans:
        assert np.array_equal(rows(slice(start, start + count)), data.entries[start : start + count])


def test_a_copy_is_the_caller_s() -> None:
    rows = ahead_of(Dataset(np.arange(9)))
    rows(slice(0, 4))[:] = 7
    assert rows(slice(0, 4)).tolist() == [0, 1, 2, 3]


def test_no_piece_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_MOST_BYTES", 32)
    data = Dataset(np.zeros((40, 2), np.float32))
    rows = ahead_of(data)
    for start in range(0, 40, 2):
        rows(slice(start, start + 2))
    assert max(stop - start for start, stop in data.asked) == 4


def test_what_cannot_be_is_the_fault_of_the_one_who_asks_for_it() -> None:
    rows = ahead_of(Dataset(np.arange(9), bad=6))
    for start in range(6):
        assert rows(slice(start, start + 1)).tolist() == [start]
    with pytest.raises(ValueError, match="this cannot be"):
        rows(slice(6, 7))
    assert rows(slice(7, 9)).tolist() == [7, 8]


def test_more_than_one_image_may_have_is_refused() -> None:
    data = Dataset(np.broadcast_to(np.float32(0), (1, 1 << 27)))
    with pytest.raises(ValueError, match="boxes claims 536,870,912 bytes for one image"):
        ahead_of(data)(slice(0, 1))
    assert not data.asked


class Overtaken(np.ndarray[Any, Any]):
    """Asked how long it is, it lets another thread ask for something else first."""

    other: Callable[[], object] | None = None

    def __len__(self) -> int:
        if (other := Overtaken.other) is not None:
            Overtaken.other = None
            other()
        return super().__len__()


def test_threads_do_not_get_what_others_ask_for() -> None:
    rows = ahead_of(Dataset(np.arange(40).view(Overtaken)))
    rows(slice(0, 9))
    Overtaken.other = lambda: rows(slice(20, 29))
    assert rows(slice(2, 5)).tolist() == [2, 3, 4]
    assert rows(slice(20, 22)).tolist() == [20, 21]
