"""Class activation maps of one image as the evaluation reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassMaps:
    """Maps of the classes of one image, at any resolution.

    Every value stands for the rectangle of the image that its cell covers.

    Attributes:
        class_index: int32 (k,), index into the dataset's class names.
        maps: float32 (k, h, w).
        height: rows of the image.
        width: columns of the image.
    """

    class_index: NDArray[np.int32]
    maps: NDArray[np.float32]
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.maps.ndim != 3 or self.class_index.shape != (len(self.maps),):
            raise ValueError(
                f"maps: expected shape (k, h, w) with k classes, got {self.maps.shape} and {self.class_index.shape}"
            )
        if min(self.height, self.width, *self.maps.shape[1:]) < 1:
            raise ValueError(
                f"maps: expected at least one pixel, got {self.maps.shape} of an image {self.height} x {self.width}"
            )
