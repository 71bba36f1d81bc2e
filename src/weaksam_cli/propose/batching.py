"""Prompts in batches: those of equal length together, and smaller batches where a GPU's memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.errors import UserError
from weaksam_cli.propose.segmenter import PADDING

T = TypeVar("T")


def by_length(
    xy: NDArray[np.float64], labels: NDArray[np.int8]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int8]]]:
    """Prompts (n, p) without their padding, those of equal length together.

    Yields:
        Row indexes (m,), points (m, q, 2), labels (m, q).
    """
    real = labels != PADDING
    lengths = real.sum(axis=1)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        chosen = real[rows]
        yield rows, xy[rows][chosen].reshape(-1, length, 2), labels[rows][chosen].reshape(-1, length)


class Batches:
    """Runs a function over batches of prompts.

    Args:
        size: prompts a batch; halved for good whenever the device has not enough memory for a batch.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"points_per_batch: expected at least 1, got {size}")
        self.size = size

    def run(self, count: int, function: Callable[[slice], T]) -> Iterator[T]:
        """The function's results over prompts 0 to `count` - 1, in order.

        Raises:
            UserError: when the memory does not suffice for a single prompt.
        """
        start = 0
        while start < count:
            batch = slice(start, min(start + self.size, count))
            try:
                result = function(batch)
            except torch.OutOfMemoryError as error:
                if batch.stop - batch.start == 1:
                    raise UserError(
                        "the device has not enough memory to decode a single prompt",
                        where="propose",
                        remedy="Free memory on it, or use --device cpu",
                    ) from error
                self.size = (batch.stop - batch.start) // 2
                torch.cuda.empty_cache()
                continue
            yield result
            start = batch.stop
