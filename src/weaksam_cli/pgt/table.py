"""Detections of all images in one struct of arrays, so that the selection works on all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import Detections


@dataclass(frozen=True)
class DetectionTable:
    """Scored boxes of many images; the order within an image is that of the detector.

    Attributes:
        boxes: float32 (n, 4), xyxy pixel edges.
        image_index: int64 (n,), index into a list of images that stands beside the table.
        class_index: int32 (n,), index into the dataset's class names.
        scores: float64 (n,).
    """

    boxes: FloatArray
    image_index: NDArray[np.int64]
    class_index: NDArray[np.int32]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        as_boxes(self.boxes)
        for name in ("image_index", "class_index", "scores"):
            met = getattr(self, name).shape
            if met != (len(self.boxes),):
                raise ValueError(f"table.{name}: expected shape ({len(self.boxes)},), got {met}")
        if not np.isfinite(self.scores).all():
            raise ValueError("table.scores: expected finite scores, got NaN or infinity")

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.generic]) -> DetectionTable:
        """The rows at `index` (integers or a mask), in that order."""
        return DetectionTable(
            self.boxes[index], self.image_index[index], self.class_index[index], self.scores[index]
        )

    @classmethod
    def from_images(cls, images: Sequence[Detections]) -> DetectionTable:
        """The detections of `images` one after the other; their positions become the image index."""
        if not images:
            return cls(as_boxes([]), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0))
        return cls(
            np.concatenate([image.boxes for image in images]),
            np.repeat(np.arange(len(images)), [len(image) for image in images]),
            np.concatenate([image.class_index for image in images]),
            np.concatenate([image.scores for image in images]).astype(np.float64),
        )

    def to_images(self, n_images: int) -> list[Detections]:
        """Detections of images 0 to n_images - 1, in table order."""
        order = np.argsort(self.image_index, kind="stable")
        bounds = np.searchsorted(self.image_index[order], np.arange(n_images + 1))
        rows = (order[low:high] for low, high in pairwise(bounds.tolist()))
        return [
            Detections(self.boxes[row], self.class_index[row], self.scores[row].astype(np.float32))
            for row in rows
        ]


@dataclass(frozen=True)
class Groups:
    """Rows of a table by image and class.

    Attributes:
        order: int64 (n,), rows sorted by group, in table order within a group.
        starts: int64 (g,), where each group starts in `order`.
        counts: int64 (g,), rows of each group.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, table: DetectionTable) -> Groups:
        """Group `table` by (image, class)."""
        n_classes = int(table.class_index.max(initial=0)) + 1
        key = table.image_index * n_classes + table.class_index
        order = np.argsort(key, kind="stable")
        _, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
        return cls(order, starts, counts)

    def spread(self, per_group: NDArray[np.float64]) -> NDArray[np.float64]:
        """One value a group (g,) as one value a row (n,)."""
        rows = np.empty(len(self.order), dtype=per_group.dtype)
        rows[self.order] = np.repeat(per_group, self.counts)
        return rows


def labelled_rows(table: DetectionTable, labels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows whose class is an image-level label of their image, in table order (spec 05 §2).

    Args:
        table: detections.
        labels: bool (n_images, n_classes).

    Raises:
        ValueError: when an image or a class of the table is not in `labels`.
    """
    if len(table) and (
        min(table.image_index.min(), table.class_index.min()) < 0
        or table.image_index.max() >= len(labels)
        or table.class_index.max() >= labels.shape[1]
    ):
        raise ValueError(
            f"labels: expected every image and class of the table in shape {labels.shape}, got image "
            f"{table.image_index.max()} and class {table.class_index.max()}"
        )
    return np.flatnonzero(labels[table.image_index, table.class_index])


def filter_classes(table: DetectionTable, labels: NDArray[np.bool_]) -> DetectionTable:
    """Only the detections whose class is an image-level label of their image; see `labelled_rows`."""
    return table.take(labelled_rows(table, labels))
