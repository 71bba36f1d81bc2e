"""Datasets that are read image by image, from the first to the last: a larger piece at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from weaksam_cli.artifacts.checks import UNREADABLE, check_image_bytes
from weaksam_cli.artifacts.schema import Array

if TYPE_CHECKING:
    import h5py

_MOST_BYTES = 1 << 22


class ReadAhead:
    """Entries of a dataset.

    A request that goes on where the one before it ended reads twice as much as that one did, up to 4 MB: what a request
    costs hardly grows with its size. Requests in any other order read what they ask for. Threads may ask at once.

    Args:
        read: gives the entries of a slice with a start and a stop, and refuses what cannot be.
        dataset: that they are of.
    """

    def __init__(self, read: Callable[[slice], Array], dataset: h5py.Dataset) -> None:
        self._read, self._dataset = read, dataset
        self._last: tuple[int, Array] | None = None

    def __call__(self, rows: slice) -> Array:
        """A copy of the entries of a slice with a start and a stop.

        Raises:
            ValueError: they are more than one image may have.
        """
        last = self._last
        if last is None or not last[0] <= rows.start <= rows.stop <= last[0] + len(last[1]):
            check_image_bytes(self._dataset, rows.stop - rows.start)
            last = rows.start, self._piece(rows, last)
            self._last = last
        first, block = last
        return block[rows.start - first : rows.stop - first].copy()

    def _piece(self, rows: slice, last: tuple[int, Array] | None) -> Array:
        """What is read for a request, after the last piece."""
        if last is not None and last[0] <= rows.start <= last[0] + len(last[1]):
            row_bytes = max(last[1].itemsize * math.prod(last[1].shape[1:]), 1)
            wanted = min(2 * len(last[1]), _MOST_BYTES // row_bytes)
            ahead = min(rows.start + wanted, len(self._dataset))
            if ahead > rows.stop:
                # What cannot be is the fault of an image that nobody has asked for yet.
                with contextlib.suppress(*UNREADABLE):
                    return self._read(slice(rows.start, ahead))
        return self._read(rows)
