"""The image's own pixels and the working pixels: large images are worked on at reduced size."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree.leaves import FloatArray, IntArray


@dataclass(frozen=True)
class Canvas:
    """Sizes in pixels; every working pixel stands for one or more whole pixels of the image."""

    height: int
    width: int
    working_height: int
    working_width: int

    @classmethod
    def fit(cls, height: int, width: int, max_pixels: int) -> Canvas:
        """The canvas of an image that is reduced, if need be, to at most about `max_pixels`."""
        factor = min(1.0, float(np.sqrt(max_pixels / (height * width))))
        return cls(height, width, max(1, int(height * factor)), max(1, int(width * factor)))

    def shrink(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image (height, width, 3) at working size."""
        if (self.working_height, self.working_width) == (self.height, self.width):
            return np.ascontiguousarray(image)
        size = (self.working_width, self.working_height)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

    def rows(self) -> IntArray:
        """The working row of every row of the image, shape (height,)."""
        return np.arange(self.height) * self.working_height // self.height

    def columns(self) -> IntArray:
        """The working column of every column of the image, shape (width,)."""
        return np.arange(self.width) * self.working_width // self.width

    def boxes_to_image(self, boxes: FloatArray) -> FloatArray:
        """Boxes (n, 4) of whole working pixels as boxes of the image."""
        column_edges = np.searchsorted(self.columns(), np.arange(self.working_width + 1))
        row_edges = np.searchsorted(self.rows(), np.arange(self.working_height + 1))
        x0, y0, x1, y1 = boxes.astype(np.int64).T
        edges = np.stack([column_edges[x0], row_edges[y0], column_edges[x1], row_edges[y1]], axis=1)
        return edges.astype(np.float32)

    def boxes_to_working(self, boxes: FloatArray) -> FloatArray:
        """Boxes (n, 4) of the image in working coordinates."""
        x, y = self.working_width / self.width, self.working_height / self.height
        return boxes * np.asarray([x, y, x, y], np.float32)

    def pixel_counts(self) -> NDArray[np.float64]:
        """Pixels of the image behind every working pixel, (working_height, working_width)."""
        rows = np.bincount(self.rows(), minlength=self.working_height)
        columns = np.bincount(self.columns(), minlength=self.working_width)
        return np.outer(rows, columns).astype(np.float64)
