"""Frozen struct-of-arrays value types that travel between modules, validated where they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes

T = TypeVar("T")


def _expect(
    array: NDArray[np.generic], shape: tuple[int | None, ...], name: str, *, finite: bool = False
) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = tuple("n" if want is None else want for want in shape)
        raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}")
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")


def taken(values: tuple[T, ...] | None, index: NDArray[np.generic]) -> tuple[T, ...] | None:
    """The values at `index`, integers or a mask; None of None."""
    if values is None:
        return None
    return tuple(values[position] for position in np.arange(len(values))[index])


@dataclass(frozen=True)
class Points:
    """Point prompts of one image.

    Attributes:
        xy: int32 (n, 2), column and row of the peak, 0-based pixel indexes.
        class_index: int32 (n,), index into the dataset's class names; -1 where a point has no class.
        value: float32 (n,), value of the map at the point, in [0, 1].
        map_index: int16 (n,), which of the stacked maps gave the point (cross-attention); 0 otherwise.
    """

    xy: NDArray[np.int32]
    class_index: NDArray[np.int32]
    value: NDArray[np.float32]
    map_index: NDArray[np.int16]

    def __post_init__(self) -> None:
        _expect(self.xy, (None, 2), "points.xy")
        n = len(self.xy)
        _expect(self.class_index, (n,), "points.class_index")
        _expect(self.value, (n,), "points.value", finite=True)
        _expect(self.map_index, (n,), "points.map_index")

    def __len__(self) -> int:
        return len(self.xy)

    @classmethod
    def empty(cls) -> Points:
        """No point at all."""
        return cls(
            np.zeros((0, 2), np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int16)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Points]) -> Points:
        """All points of `parts`, in order."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.xy for part in parts]),
            np.concatenate([part.class_index for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.map_index for part in parts]),
        )


@dataclass(frozen=True)
class PromptedMasks:
    """What a segmenter answers to n prompts: k masks each, mostly three that are nested (part, object, whole).

    Attributes:
        boxes: float32 (n, k, 4), tight boxes of the masks, xyxy pixel edges; all zero for an empty mask.
        area: int64 (n, k), mask areas in pixels; 0 for an empty mask.
        predicted_iou: float32 (n, k), the segmenter's own estimate of mask quality.
        stability: float32 (n, k), in [0, 1]; NaN for an empty mask.
        counts: n lists of k compressed RLE strings, or None when masks were not asked for; b"" for a mask that was
            not wanted.
    """

    boxes: FloatArray
    area: NDArray[np.int64]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    counts: list[list[bytes]] | None = None

    def __post_init__(self) -> None:
        _expect(self.boxes, (None, None, 4), "boxes")
        n, k = self.boxes.shape[:2]
        _expect(self.area, (n, k), "area")
        _expect(self.predicted_iou, (n, k), "predicted_iou")
        _expect(self.stability, (n, k), "stability")
        if self.counts is not None and len(self.counts) != n:
            raise ValueError(f"counts: expected {n} prompts, got {len(self.counts)}")

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Detections:
    """Scored boxes of one image: detections, or pseudo ground truth.

    Attributes:
        boxes: float32 (n, 4), xyxy pixel edges.
        class_index: int32 (n,), index into the dataset's class names.
        scores: float32 (n,), finite.
        masks: n compressed RLE strings (COCO's `counts`) of the image's size; None for boxes alone.
    """

    boxes: FloatArray
    class_index: NDArray[np.int32]
    scores: NDArray[np.float32]
    masks: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        as_boxes(self.boxes, name="detections.boxes", ordered=True)
        _expect(self.class_index, (len(self.boxes),), "detections.class_index")
        _expect(self.scores, (len(self.boxes),), "detections.scores", finite=True)
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"detections.masks: expected {len(self.boxes)} masks, got {len(self.masks)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.generic]) -> Detections:
        """The detections at `index` (integers or a mask), in that order."""
        masks = taken(self.masks, index)
        return Detections(self.boxes[index], self.class_index[index], self.scores[index], masks)

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """All detections of `parts`, in order; their masks where all have some."""
        if not parts:
            return cls.empty()
        masks = [part.masks for part in parts if part.masks is not None]
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.class_index for part in parts]),
            np.concatenate([part.scores for part in parts]),
            tuple(mask for part in masks for mask in part) if len(masks) == len(parts) else None,
        )

    def best_scores(self, n_classes: int) -> NDArray[np.float32]:
        """The best score of each class, float32 (n_classes,); 0 for a class that was not found."""
        best = np.zeros(n_classes, np.float32)
        np.maximum.at(best, self.class_index, self.scores)
        return best

    @classmethod
    def empty(cls) -> Detections:
        """No detection at all."""
        return cls(as_boxes([]), np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class GroundTruth:
    """Annotated objects of one image; read by `eval` and `report` alone.

    Attributes:
        boxes: float32 (n, 4), xyxy pixel edges.
        class_index: int32 (n,), index into the dataset's class names.
        difficult: bool (n,), VOC's flag (COCO: `iscrowd`).
        areas: float32 (n,), pixels, as annotated; NaN where the annotation does not say. None: nowhere.
        masks: n compressed RLE strings (COCO's `counts`) of the image's size, None for an object without a mask; None
            where nobody asked for masks.
    """

    boxes: FloatArray
    class_index: NDArray[np.int32]
    difficult: NDArray[np.bool_]
    areas: NDArray[np.float32] | None = None
    masks: tuple[bytes | None, ...] | None = None

    def __post_init__(self) -> None:
        as_boxes(self.boxes, name="ground_truth.boxes", ordered=True)
        _expect(self.class_index, (len(self.boxes),), "ground_truth.class_index")
        _expect(self.difficult, (len(self.boxes),), "ground_truth.difficult")
        if self.areas is not None:
            _expect(self.areas, (len(self.boxes),), "ground_truth.areas")
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"ground_truth.masks: expected {len(self.boxes)} masks, got {len(self.masks)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.generic]) -> GroundTruth:
        """The objects at `index` (integers or a mask), in that order."""
        areas = None if self.areas is None else self.areas[index]
        masks = taken(self.masks, index)
        return GroundTruth(self.boxes[index], self.class_index[index], self.difficult[index], areas, masks)
