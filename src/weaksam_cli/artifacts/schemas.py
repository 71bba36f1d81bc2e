"""The HDF5 formats that one stage writes and others read, and the value types they are read into."""

from __future__ import annotations

import numpy as np

from weaksam_cli.artifacts.schema import Batch, Column, ImageRows, Schema
from weaksam_cli.core.types import Detections

DETECTIONS = Schema(
    "weaksam/detections",
    1,
    columns=(Column("boxes", "float32", (4,)), Column("class_index", "int32"), Column("scores", "float32")),
)
"""Scored boxes, xyxy pixel edges; lives in shards, the artifact itself is COCO results JSON."""


def detections_to_rows(detections: Detections) -> ImageRows:
    """Detections of one image as rows of `DETECTIONS`."""
    return ImageRows(
        columns={
            "boxes": detections.boxes,
            "class_index": detections.class_index,
            "scores": detections.scores,
        }
    )


def detections_by_image(batch: Batch) -> dict[str, Detections]:
    """The detections in a batch of shards, by image."""
    return {
        image_id: Detections(
            batch.arrays["boxes"][start:stop].astype(np.float32),
            batch.arrays["class_index"][start:stop].astype(np.int32),
            batch.arrays["scores"][start:stop].astype(np.float32),
        )
        for image_id, start, stop in zip(batch.image_ids, batch.offsets[:-1], batch.offsets[1:], strict=True)
    }
