"""Ground truth for `eval`, read from the dataset itself and from nowhere else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.source import Source
from weaksam_cli.errors import UserError


@dataclass(frozen=True)
class AnnotatedSplit:
    """The annotated objects of a split.

    Attributes:
        objects: image key to objects, for every image of the labels, in their order.
        left_out: image key to why objects of it, or all of it, could not be used.
        warnings: what is odd and was used all the same.
    """

    objects: dict[str, GroundTruth]
    left_out: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def count(self) -> int:
        """Objects of all images."""
        return sum(map(len, self.objects.values()))

    def digest(self) -> str:
        """SHA-256 of all boxes, classes and flags."""
        value = hashlib.sha256()
        for key, objects in self.objects.items():
            value.update(key.encode())
            for array in (objects.boxes, objects.class_index, objects.difficult):
                value.update(np.ascontiguousarray(array).tobytes())
        return value.hexdigest()


def load_ground_truth(run_root: Path, source: Source, split: str, labels: Labels) -> AnnotatedSplit:
    """Annotated objects with class indexes of the labels; none in a dataset whose layout has no boxes.

    Raises:
        UserError: annotations without boxes, or classes that are not those of the labels.
    """
    found = read_ground_truth(run_root, source, split)
    if found is None:
        return AnnotatedSplit({}, {}, ())
    if list(found.class_names) != labels.class_names:
        raise UserError(
            "the annotations have other classes than the labels were read with",
            where=source.path,
            remedy="Run `weaksam data SOURCE` again",
        )
    by_key = {image.key: image.objects for image in found.images}
    empty = GroundTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.bool_))
    reasons: dict[str, list[str]] = {key: [] for key in labels.keys}
    for remark in found.failed:
        reasons.get(remark.key, []).append(remark.reason)
    return AnnotatedSplit(
        {key: by_key.get(key, empty) for key in labels.keys},
        {key: "; ".join(lines) for key, lines in reasons.items() if lines},
        tuple(f"{key}: {reason}" if key else reason for key, reason in found.warnings),
    )
