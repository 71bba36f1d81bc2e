"""What an evaluation answers: one figure a class and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PerClass:
    """One figure a class, as a share in [0, 1].

    Attributes:
        values: class name to figure; NaN for a class that the ground truth does not hold.
        support: class name to the number of objects, images or points that the figure rests on.
    """

    values: dict[str, float]
    support: dict[str, int]

    @property
    def mean(self) -> float:
        """Mean over the classes that the ground truth holds; NaN when it holds none."""
        known = [value for value in self.values.values() if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    @classmethod
    def of(
        cls,
        class_names: Sequence[str],
        values: Sequence[float] | NDArray[np.float64],
        support: NDArray[np.int64],
    ) -> PerClass:
        """Figures and their support in the order of the class names."""
        return cls(
            {name: float(value) for name, value in zip(class_names, values, strict=True)},
            {name: int(count) for name, count in zip(class_names, support, strict=True)},
        )

    @classmethod
    def ratio(
        cls, class_names: Sequence[str], hits: NDArray[np.int64], support: NDArray[np.int64]
    ) -> PerClass:
        """`hits / support` for every class, NaN where there is no support."""
        shares = np.full(len(support), np.nan)
        np.divide(hits, support, out=shares, where=support > 0)
        return cls.of(class_names, shares, support)
