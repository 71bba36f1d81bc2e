"""Artifacts between the steps of the embedded detectors."""

from __future__ import annotations

from weaksam_cli.artifacts.schema import Column, Schema

SAMPLES = Schema(
    "weaksam/region-samples",
    1,
    columns=(Column("fold", "int8"),),
    blobs=(Column("cells", "float16"), Column("cell_labels", "int16"), Column("pooled", "float16")),
)
"""One row an image: sampled cells (n x 432), their labels (0 background), and pooled features of sampled RoIs (m x 2560)."""


def regions_schema(feature_size: int, n_classes: int) -> Schema:
    """RoI features of each proposal, and the class maps' prior (0 for classes without maps)."""
    return Schema(
        "weaksam/regions",
        1,
        columns=(
            Column("boxes", "float32", (4,)),
            Column("features", "float16", (feature_size,)),
            Column("prior", "float16", (n_classes,)),
        ),
        image_columns=(Column("image_size", "int32", (2,)), Column("class_scores", "float32", (n_classes,))),
    )
