"""Class maps of a split, one a class and image, for what compares them with boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.class_maps import KINDS, cam_schema, class_heat, read_class_maps
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.data.labels import Labels

FUSED_SHORT_SIDE = 64
"""Maps are fused at this many cells on the shorter side."""


@dataclass(frozen=True)
class FusedMaps:
    """Maps of the classes of one image, at any resolution.

    Every value stands for the rectangle of the image that its cell covers.

    Attributes:
        class_index: int32 (k,), index into the dataset's class names.
        maps: float32 (k, h, w).
        height, width: of the image.
    """

    class_index: NDArray[np.int32]
    maps: NDArray[np.float32]
    height: int
    width: int


def fused_maps(path: Path, labels: Labels) -> dict[str, dict[str, FusedMaps]]:
    """Fused maps at low resolution, of the classes that an image really shows, by kind and image key.

    All kinds are made in one reading; one without a map is left out.
    """
    images, found = labels.by_key(), {kind: dict[str, FusedMaps]() for kind in KINDS}
    schema = cam_schema(len(labels.class_names))
    with open_artifact_of(labels, path, schema, verify=False) as artifact:
        for key in artifact:
            maps = read_class_maps(artifact, key)
            height, width = maps.image_size
            factor = FUSED_SHORT_SIDE / min(height, width)
            size = max(1, round(height * factor)), max(1, round(width * factor))
            present = set(labels.class_indexes(images[key]))
            rows = [row for row, index in enumerate(maps.classes()) if index in present]
            classes = np.asarray(maps.classes(), np.int32)[rows]
            for number, kind in enumerate(KINDS if rows else ()):
                heat = class_heat(maps, number, *size)
                if heat is not None:
                    found[kind][key] = FusedMaps(classes, heat[rows], height, width)
    return {kind: maps for kind, maps in found.items() if maps}


def best_maps(path: Path, labels: Labels) -> dict[str, FusedMaps]:
    """The fine maps of an artifact, else those of a kind that it has."""
    every = fused_maps(path, labels)
    return every.get("fine") or next(iter(every.values()), {})
