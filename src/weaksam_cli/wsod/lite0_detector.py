"""Detectors on RoI features that were computed before: an image of a regions artifact in, scores of its proposals out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.wsod.detector import RegionDetector, Sample
from weaksam_cli.wsod.method import Method, Outputs, Regions

LARGEST_FEATURE = 6.0
"""Standardised features are cut there: rare cells would otherwise dominate."""
_DEVIATION_FLOOR = 0.02
"""Keeps grid cells that are almost always empty from being blown up."""


class Standardise(nn.Module):
    """Features (R, D) with the mean and deviation, (2, D), of the training split's taken out, and cut."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, statistics: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", statistics[0].clone())
        self.register_buffer("deviation", statistics[1].clone())

    def forward(self, features: Tensor) -> Tensor:
        """Standardised (R, D)."""
        standard = (features - self.mean) / self.deviation
        return standard.clamp(-LARGEST_FEATURE, LARGEST_FEATURE)


class FrozenDetector(RegionDetector):
    """A detector whose RoI features come with the image; `statistics` (2, D) standardise them."""

    def __init__(self, method: Method, statistics: Tensor, class_count: int) -> None:
        size = statistics.shape[1]
        super().__init__(method, Standardise(statistics), size, class_count, size)

    def outputs(self, samples: Sequence[Sample]) -> list[Outputs]:
        """Image by image."""
        return [self.method.outputs(self.heads, item.input, self.neck) for item in samples]


def region_sample(regions: Artifact, image_id: str, prior_floor: float, image_labels: Tensor) -> Sample:
    """One image of a regions artifact as the detector takes it."""
    boxes, features, prior = (
        torch.from_numpy(regions.rows(image_id, name).astype(np.float32))
        for name in ("boxes", "features", "prior")
    )
    return Sample(features, Regions(boxes, image_labels, prior + prior_floor))


def feature_statistics(regions: Artifact, image_ids: Sequence[str], n_projected: int) -> Tensor:
    """Mean and deviation (2, D) that standardise RoI features; projected ones, whitened already, keep theirs (0 and 1)."""
    total = squares = np.zeros(regions.datasets_shape("features")[1])
    count = 0
    for image_id in image_ids:
        rows = regions.rows(image_id, "features").astype(np.float64)
        total = rows.sum(axis=0) + total
        squares = (rows**2).sum(axis=0) + squares
        count += len(rows)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0)) + _DEVIATION_FLOOR
    mean[:n_projected], deviation[:n_projected] = 0, 1
    return torch.from_numpy(np.stack([mean, deviation]).astype(np.float32))
