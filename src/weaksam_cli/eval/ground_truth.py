"""Ground truth for `eval`, read from the dataset itself and from nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import numpy as np

from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.source import Source, dataset_path
from weaksam_cli.data.types import Layout, ReadOptions
from weaksam_cli.errors import UserError

FOLDER_LAYOUT = "folder"


def load_ground_truth(run_root: Path, source: Source, split: str, labels: Labels) -> dict[str, GroundTruth]:
    """Annotated objects of every image of the labels, in their order, with class indexes of the labels.

    Raises:
        UserError: annotations without boxes, or classes that are not those of the labels.
    """
    options = dict(source.options)
    images_root = options.pop("images_root", None)
    for name in ("class_names", "subset"):
        options[name] = tuple(options[name]) if options.get(name) else None
    read_options = ReadOptions(**options, images_root=Path(images_root) if images_root else None)
    found = read_ground_truth(
        dataset_path(run_root, source), split, read_options, layout=cast(Layout, source.layout)
    )
    if list(found.class_names) != labels.class_names:
        raise UserError(
            "the annotations have other classes than the labels were read with",
            where=source.path,
            remedy="Run `weaksam data SOURCE` again",
        )
    by_key = {image.key: image.objects for image in found.images}
    empty = GroundTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.bool_))
    return {key: by_key.get(key, empty) for key in labels.keys}


def truth_digest(truth: dict[str, GroundTruth] | None) -> str:
    """SHA-256 of all boxes, classes and flags."""
    value = hashlib.sha256()
    for key, objects in (truth or {}).items():
        value.update(key.encode())
        for array in (objects.boxes, objects.class_index, objects.difficult):
            value.update(np.ascontiguousarray(array).tobytes())
    return value.hexdigest()
