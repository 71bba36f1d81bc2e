"""`weaksam/points`: the peak points of a split, and how those of one image are written and read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.core.types import Points

POINTS = Schema(
    "weaksam/points",
    1,
    columns=(
        Column("xy", "int32", (2,), inside="point"),
        Column("class_index", "int32", low=-1, table="class_names"),
        Column("kind", "int8", low=0, table="kind_names"),
        Column("value", "float32"),
        Column("map_index", "int16", low=0),
    ),
    image_columns=(Column("image_size", "int32", (2,), low=1),),
    tables=("class_names", "kind_names"),
    known={"kind_names": KINDS},
)
"""Peak points: column and row in pixels of the image; `class_index` -1 where clustering lost the class."""


def points_to_rows(parts: Sequence[tuple[int, Points]], image_size: tuple[int, int]) -> ImageRows:
    """(kind, points) pairs of one image as rows of `POINTS`, in the order given."""
    joined = Points.concatenate([points for _, points in parts])
    kinds = np.asarray([kind for kind, points in parts for _ in range(len(points))], np.int8)
    return ImageRows(vars(joined) | {"kind": kinds}, {"image_size": np.asarray(image_size, np.int32)})


def read_points(artifact: Artifact, image_id: str) -> dict[str, Points]:
    """The points of one image by kind; every kind is a key.

    Raises:
        UserError: a value that cannot be, or a point outside of the image.
    """
    columns = artifact.all_rows(image_id, POINTS)
    kinds = columns.pop("kind")
    return {
        name: Points(**{column: values[kinds == index] for column, values in columns.items()})
        for index, name in enumerate(artifact.table("kind_names"))
    }
