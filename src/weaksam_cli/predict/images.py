"""A trained detector as a function of one image in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.masks import decode
from weaksam_cli.core.types import Detections
from weaksam_cli.data.dataset import Difficult
from weaksam_cli.data.images import image_pixels, read_image
from weaksam_cli.data.labels import LabelledImage, Labels, LabelsFile, LabelsInfo
from weaksam_cli.data.unlabelled import DATASET, SPLIT, UnlabelledSplit
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.detectors import ResultsPredictor
from weaksam_cli.predict.chain import NEW_IMAGES, predict
from weaksam_cli.predict.threshold import Threshold
from weaksam_cli.predict.trained import Trained

AnyImage = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, an image of Pillow, or pixels uint8 RGB (height, width, 3)."""
_KEYS: Final = ("even", "odd")
"""Rows that are computed are kept for the last key: two keys in turn, so that no image is taken for the one before."""


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image, best first.

    Attributes:
        boxes: float32 (n, 4), xyxy pixel edges, 0-based, of the upright image.
        scores: float32 (n,).
        classes: n names.
        counts: n compressed RLE strings (COCO's `counts`) of the upright image's size; None of a detector of boxes alone.
        size: height and width of the upright image.
    """

    boxes: FloatArray
    scores: NDArray[np.float32]
    classes: tuple[str, ...]
    counts: tuple[bytes, ...] | None = None
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        as_boxes(self.boxes, name="boxes", ordered=True)
        if not len(self.boxes) == len(self.scores) == len(self.classes):
            counts = f"{len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.classes)} classes"
            raise ValueError(f"expected as many boxes, scores and classes, got {counts}")

        if self.counts is not None and len(self.counts) != len(self.boxes):
            raise ValueError(f"expected as many masks as boxes, got {len(self.counts)} and {len(self.boxes)}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """Dense masks (n, height, width), decoded when they are asked for; None of a detector of boxes alone."""
        return None if self.counts is None else decode(self.counts, *self.size)


class ImageDetector:
    """A trained detector: `detector(image)` gives what is in an image. It serves one thread at a time.

    Args:
        trained: the detector.
        threshold: the least score of what it tells.
        context: device, weights and warnings.

    Attributes:
        use: the stage that trained it, `wsod` or `retrain`.
        classes: names of the classes that it knows.
        threshold: see there.

    Raises:
        UserError: the model is damaged, or what it needs is gone.
    """

    def __init__(self, trained: Trained, threshold: Threshold, context: Context) -> None:
        self.use, self.classes, self.threshold = trained.use, tuple(trained.class_names), threshold
        self._shown: list[NDArray[np.uint8]] = []
        self._keys = cycle(_KEYS)
        work = predict(trained, _held_split(trained, self._shown), context).work()
        assert isinstance(work.predictor, ResultsPredictor)
        self._detect: Callable[[str], Detections] = work.predictor.detector.open()

    def __call__(self, image: AnyImage, *, min_score: float | None = None) -> ImageDetections:
        """What is in an image.

        Args:
            image: see `AnyImage`.
            min_score: leave out what scores less; None: what the detector's threshold does not believe.

        Raises:
            ImageError: a file that cannot be read.
            ValueError: pixels of another shape or type.
        """
        self._shown[:] = [pixels_of(image)]
        found = self._detect(next(self._keys))
        rule = self.threshold if min_score is None else Threshold(score=min_score, share=0)
        found = found.take(np.argsort(-found.scores, kind="stable"))
        found = found.take(rule.believes(found))
        names = tuple(self.classes[index] for index in found.class_index)
        height, width = self._shown[0].shape[:2]
        return ImageDetections(found.boxes, found.scores, names, found.masks, (height, width))


def pixels_of(image: AnyImage) -> NDArray[np.uint8]:
    """An image in any form as uint8 RGB (height, width, 3), upright.

    Raises:
        ImageError: a file that cannot be read.
        ValueError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        return image_pixels(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"image: expected uint8 (height, width, 3), got {image.dtype} {image.shape}")
        return image
    return read_image(Path(image))


@dataclass(frozen=True)
class _HeldLabels(Labels):
    """Of images whose pixels somebody holds: there is one at a time, under whatever key."""

    shown: list[NDArray[np.uint8]]

    def read_image(self, image: LabelledImage) -> NDArray[np.uint8]:
        return self.shown[0]


@dataclass(frozen=True)
class _HeldSplit(UnlabelledSplit):
    shown: list[NDArray[np.uint8]] = field(default_factory=list)

    def read(self, difficult: Difficult | None = None) -> Labels:
        return _HeldLabels(self.labels, self.file, self.image_root, self.shown).counting(difficult)


def _held_split(trained: Trained, shown: list[NDArray[np.uint8]]) -> UnlabelledSplit:
    images = [
        LabelledImage(id=number, key=key, file_name=key, height=0, width=0, sha256="", labels=None)
        for number, key in enumerate(_KEYS, 1)
    ]
    info = LabelsInfo(dataset=DATASET, split=SPLIT, role="test")
    file = LabelsFile(info=info, categories=list(trained.categories), images=images)
    return _HeldSplit(Path(), Path(), file, 0, NEW_IMAGES, shown)
