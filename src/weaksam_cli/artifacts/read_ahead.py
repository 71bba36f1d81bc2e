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

    A request that goes on where the one before it ended reads twice as much as that one did, up to 4 MB: HDF5 takes a
    millisecond for each request, whatever its size. Requests in any other order read what they ask for.

    Args:
        read: gives the entries of a slice with a start and a stop, and refuses what cannot be.
        dataset: that they are of.
    """

    def __init__(self, read: Callable[[slice], Array], dataset: h5py.Dataset) -> None:
        self._read, self._dataset = read, dataset
        self._start = 0
        self._block: Array | None = None

    def __call__(self, rows: slice) -> Array:
        """A copy of the entries of a slice with a start and a stop.

        Raises:
            ValueError: they are more than one image may have.
        """
        start, stop, block = rows.start, rows.stop, self._block
        if block is None or not self._start <= start <= stop <= self._start + len(block):
            check_image_bytes(self._dataset, stop - start)
            block = self._piece(start, stop)
            self._start, self._block = start, block
        return block[start - self._start : stop - self._start].copy()

    def _piece(self, start: int, stop: int) -> Array:
        before = self._block
        if before is not None and self._start <= start <= self._start + len(before):
            row_bytes = max(before.itemsize * math.prod(before.shape[1:]), 1)
            wanted = min(2 * len(before), _MOST_BYTES // row_bytes)
            ahead = min(start + wanted, len(self._dataset))
            if ahead > stop:
                # What cannot be is the fault of an image that nobody has asked for yet.
                with contextlib.suppress(*UNREADABLE):
                    return self._read(slice(start, ahead))
        return self._read(slice(start, stop))
