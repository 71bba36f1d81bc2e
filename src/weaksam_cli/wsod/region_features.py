"""RoI features of frozen lite0: pooled features inside and against their surroundings, and a grid of dense probabilities.

Pooled features alone let multiple-instance learning collapse onto parts: with lite0's large receptive field every RoI near
an object sees it. The grid of class probabilities over a RoI *and its surroundings* tells whether the RoI covers the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.ops import roi_align

from weaksam_cli.core.boxes import FloatArray

_TRUNK_STRIDE = 32
_INSIDE_SAMPLES, _CONTEXT_SAMPLES = 4, 5
_GRID_PADDING = 12


def enlarged(boxes: FloatArray, factor: float) -> FloatArray:
    """Boxes (n, 4) with sides `factor` times as long about their centres; not cut to the image."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(factor / 2)
    return np.concatenate([centre - half, centre + half], axis=1)


def pooled_features(
    features: torch.Tensor,
    boxes: FloatArray,
    image: tuple[int, int],
    view: tuple[int, int],
    context_scale: float,
) -> torch.Tensor:
    """Average features inside each RoI, and their difference to those of the RoI with its surroundings.

    Args:
        features: (1280, h, w), lite0's last map of the resized image.
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        image: its height and width.
        view: height and width of the resized image.
        context_scale: extent of the surroundings relative to the RoI.

    Returns:
        (R, 2560).
    """
    scale = np.asarray([view[1] / image[1], view[0] / image[0]] * 2, np.float32)
    limits = np.asarray([image[1], image[0]] * 2, np.float32)
    around = np.clip(enlarged(boxes, context_scale), 0, limits)
    inside = _mean_over(features, boxes * scale, _INSIDE_SAMPLES)
    context = _mean_over(features, around * scale, _CONTEXT_SAMPLES)
    return torch.cat([inside, inside - context], dim=1)


def _mean_over(features: torch.Tensor, boxes: FloatArray, samples: int) -> torch.Tensor:
    pooled = roi_align(features[None], [torch.from_numpy(boxes)], 1, 1 / _TRUNK_STRIDE, samples, aligned=True)
    return pooled.flatten(1)


def probability_grid(
    probabilities: torch.Tensor, boxes: FloatArray, image: tuple[int, int], cells: int, scale: float
) -> torch.Tensor:
    """Dense probabilities on a grid over each RoI and its surroundings; 0 outside the image.

    Args:
        probabilities: (C + 1, h, w), background first, stretched over the image.
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        image: its height and width.
        cells: cells a side.
        scale: extent of the grid relative to the RoI.

    Returns:
        (R, (C + 1) * cells * cells).
    """
    height, width = probabilities.shape[1:]
    ratio = np.asarray([width / image[1], height / image[0]] * 2, np.float32)
    padded = F.pad(probabilities[None], (_GRID_PADDING,) * 4)
    where = torch.from_numpy(enlarged(boxes, scale) * ratio + np.float32(_GRID_PADDING))
    return roi_align(padded, [where], cells, 1.0, 2, aligned=True).flatten(1)


@dataclass(frozen=True)
class PrincipalComponents:
    """The leading principal components of pooled features, softly whitened.

    Attributes:
        mean: float32 (D,).
        components: float32 (D, k), columns divided by half their deviation plus a share of the largest.
    """

    mean: torch.Tensor
    components: torch.Tensor

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """(R, k) of features (R, D)."""
        return (features - self.mean) @ self.components


def fit_components(features: NDArray[np.floating], count: int) -> PrincipalComponents:
    """Principal components of a sample (n, D), n > 1; signs are fixed so that equal samples give equal components."""
    sample = np.asarray(features, np.float64)
    mean = sample.mean(axis=0)
    covariance = (sample - mean).T @ (sample - mean) / max(len(sample) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, ::-1][:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    deviation = np.sqrt(np.maximum(values[::-1][:count], 1e-6))
    scaled = vectors * signs / (deviation * 0.5 + deviation[0] * 0.05)
    return PrincipalComponents(
        torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scaled.astype(np.float32))
    )
