"""`weaksam/points`: the peak points of a split, and how those of one image are written and read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.core.types import Points
from weaksam_cli.errors import UserError

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


def points_to_rows(parts: Sequence[tuple[int, Points]], image_size: tuple[int, int]) -> ImageRows:
    """(kind, points) pairs of one image as rows of `POINTS`, in the order given."""
    joined = Points.concatenate([points for _, points in parts])
    kinds = np.asarray([kind for kind, _ in parts], np.int8)
    kind = np.repeat(kinds, np.asarray([len(points) for _, points in parts], np.int64))
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
    """The points of one image by kind; every kind is a key.

    Raises:
        UserError: a value that is no number.
    """
    kinds = artifact.rows(image_id, "kind")
    columns = {name: artifact.rows(image_id, name) for name in ("xy", "class_index", "value", "map_index")}
    try:
        return {
            name: Points(
                columns["xy"][kinds == index].astype(np.int32),
                columns["class_index"][kinds == index].astype(np.int32),
                columns["value"][kinds == index].astype(np.float32),
                columns["map_index"][kinds == index].astype(np.int16),
            )
            for index, name in enumerate(artifact.table("kind_names"))
        }
    except ValueError as error:
        raise UserError(
            f"image {image_id!r}: {error}", where=str(artifact.path), remedy="Make the file again"
        ) from error
