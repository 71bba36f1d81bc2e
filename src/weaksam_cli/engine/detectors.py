"""What ends the stages with a detector: from each image to its entries in a COCO results file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import RESULTS, result_texts
from weaksam_cli.data.labels import Split
from weaksam_cli.engine.predictors import ImageFunction, Overlapped
from weaksam_cli.engine.sharded import SHARD_IMAGES, PerImage


class Detector(Protocol):
    """A predictor whose result for an image are detections; small, frozen and picklable."""

    def open(self) -> Callable[[str], Detections] | Overlapped[Any, Detections]:
        """Load the network once a process."""
        ...


@dataclass(frozen=True)
class ResultsPredictor:
    """A detector's detections as entries of a results file."""

    detector: Detector
    split: Split

    def open(self) -> ImageFunction | Overlapped[Any, list[str]]:
        """Open the detector, and the labels that number images and classes."""
        opened, texts = self.detector.open(), result_texts(self.split.read())
        if not isinstance(opened, Overlapped):
            return lambda image_id: texts(image_id, opened(image_id))
        compute = opened.compute
        return Overlapped(
            opened.load,
            lambda image_id, loaded: texts(image_id, compute(image_id, loaded)),
        )


def per_image_detections(
    split: Split,
    image_ids: Sequence[str],
    detector: Detector,
    *,
    device: str = "cpu",
    shard_images: int = SHARD_IMAGES,
) -> PerImage:
    """What makes the results file of a split.

    Args:
        split: of the images.
        image_ids: images that are looked at, in order.
        detector: from an image to its detections.
        device, shard_images: see `PerImage`.
    """
    predictor = ResultsPredictor(detector, split)
    return PerImage(RESULTS, image_ids, predictor, "detecting", shard_images=shard_images, device=device)
