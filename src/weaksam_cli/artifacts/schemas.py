"""The HDF5 formats that one stage writes and others read, and the value types they are read into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import Batch, Column, ImageRows, Schema
from weaksam_cli.core.types import Detections, Points

POINTS = Schema(
    "weaksam/points",
    1,
    columns=(
        Column("xy", "int32", (2,)),
        Column("class_index", "int32"),
        Column("kind", "int8"),
        Column("value", "float32"),
        Column("map_index", "int16"),
    ),
    image_columns=(Column("image_size", "int32", (2,)),),
)
"""Peak points: column and row in pixels of the image; `class_index` -1 where clustering lost the class."""

DETECTIONS = Schema(
    "weaksam/detections",
    1,
    columns=(Column("boxes", "float32", (4,)), Column("class_index", "int32"), Column("scores", "float32")),
)
"""Scored boxes, xyxy pixel edges; lives in shards, the artifact itself is COCO results JSON."""


PROPOSALS = Schema(
    "weaksam/proposals",
    1,
    columns=(
        Column("boxes", "float32", (4,)),
        Column("source", "int8"),
        Column("prompt", "int32"),
        Column("mask_token", "int8"),
        Column("predicted_iou", "float32"),
        Column("stability", "float32"),
    ),
    image_columns=(Column("image_size", "int32", (2,)),),
    blobs=(Column("masks", "uint8"),),
)
"""Class-agnostic boxes, xyxy pixel edges; `masks` holds each one's compressed RLE (COCO's `counts`), empty by default."""


def points_to_rows(parts: Sequence[tuple[int, Points]], image_size: tuple[int, int]) -> ImageRows:
    """(kind, points) pairs of one image as rows of `POINTS`, in the order given."""
    joined = Points.concatenate([points for _, points in parts])
    kind = np.concatenate(
        [np.full(len(points), kind, np.int8) for kind, points in parts] or [np.zeros(0, np.int8)]
    )
    return ImageRows(
        columns={
            "xy": joined.xy,
            "class_index": joined.class_index,
            "kind": kind,
            "value": joined.value,
            "map_index": joined.map_index,
        },
        image={"image_size": np.asarray(image_size, np.int32)},
    )


def read_points(artifact: Artifact, image_id: str) -> dict[str, Points]:
    """The points of one image by kind; every kind is a key."""
    kinds = artifact.rows(image_id, "kind")
    columns = {name: artifact.rows(image_id, name) for name in ("xy", "class_index", "value", "map_index")}
    names = artifact.table("kind_names")
    return {
        name: Points(
            columns["xy"][kinds == index].astype(np.int32),
            columns["class_index"][kinds == index].astype(np.int32),
            columns["value"][kinds == index].astype(np.float32),
            columns["map_index"][kinds == index].astype(np.int16),
        )
        for index, name in enumerate(names)
    }


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
