"""RoI features of one image by frozen lite0: inside and against the surroundings, and a grid of dense probabilities.

Pooled features alone let multiple-instance learning collapse onto parts: with lite0's large receptive field every RoI near
an object sees it. The grid of class probabilities over a RoI *and its surroundings* tells whether the RoI covers the object.
Class maps are a prior over proposals, too: IoU with the box of the map's largest component, at several thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, fuse_scales
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core.boxes import FloatArray, as_boxes, iou
from weaksam_cli.core.maps import cell_affinity, normalise, resize_bilinear
from weaksam_cli.models.lite import Lite, view_features
from weaksam_cli.wsod.detector import Sample
from weaksam_cli.wsod.feature_model import (
    MIDDLE_CHANNELS,
    DenseClassifier,
    FeatureModel,
    describe_cells,
    sample_cells,
)
from weaksam_cli.wsod.lite0_settings import FeatureSettings, RoiSettings
from weaksam_cli.wsod.method import Regions

_FINE = KINDS.index("fine")
_TRUNK_STRIDE = 32
_INSIDE_SAMPLES, _CONTEXT_SAMPLES = 4, 5
_GRID_PADDING = 12
_DEVIATION_FLOOR = 0.02
"""Keeps grid cells that are almost always empty from being blown up."""


@dataclass(frozen=True)
class ImageMaps:
    """Maps of one image at the detector's resolution.

    Attributes:
        last: (1280, h, w).
        cells: (432, h', w'), descriptors of the stride-16 cells.
        view: height and width of the resized image.
        image_size: height and width of the image.
    """

    last: Tensor
    cells: Tensor
    view: tuple[int, int]
    image_size: tuple[int, int]


def image_maps(backbone: Lite, image: NDArray[np.uint8], short_side: int) -> ImageMaps:
    """One forward pass."""
    found = view_features(backbone, image, short_side, mirror=False)
    return ImageMaps(
        torch.from_numpy(found.last[0]),
        describe_cells(torch.from_numpy(found.middle[0]), torch.from_numpy(found.trunk[0])),
        found.size,
        (image.shape[0], image.shape[1]),
    )


def image_samples(
    maps: ImageMaps,
    class_maps: ClassMaps,
    boxes: FloatArray,
    settings: FeatureSettings,
    generator: np.random.Generator,
) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    """Cells (n, 432), their labels (n,) and pooled features (m, 2560) of RoIs, to learn the feature model from.

    Args:
        maps: of a training image.
        class_maps: of its classes.
        boxes: float32 (R, 4), its proposals.
        settings: how many are drawn, and how RoIs are pooled.
        generator: of the image.
    """
    size = maps.cells.shape[1], maps.cells.shape[2]
    fused = fuse_scales(class_maps, _FINE, *size)
    values = np.zeros((0, *size), np.float32) if fused is None else fused
    cells, labels = sample_cells(maps.cells.numpy(), values, class_maps.classes(), settings.dense, generator)
    count = min(settings.features.samples, len(boxes))
    rows = np.sort(generator.choice(len(boxes), count, replace=False))
    return cells, labels, pooled_features(maps, boxes[rows], settings.features.context_scale).numpy()


def roi_features(
    maps: ImageMaps,
    boxes: FloatArray,
    model: FeatureModel,
    classifiers: Sequence[DenseClassifier],
    settings: RoiSettings,
) -> FloatArray:
    """RoI features float32 (R, D): projected pooled features, then the probability grid.

    Args:
        maps: of the image.
        boxes: float32 (R, 4).
        model: what features are made with.
        classifiers: those of the model that answer for the image.
        settings: of both parts.
    """
    pooled = pooled_features(maps, boxes, settings.context_scale)
    answers = [item.logits(maps.cells).softmax(dim=0) for item in classifiers]
    probabilities = torch.stack(answers).mean(dim=0)
    grid = probability_grid(probabilities, boxes, maps.image_size, settings.grid, settings.grid_scale)
    return torch.cat([model.components.project(pooled), grid], dim=1).numpy()


def class_map_prior(
    maps: ImageMaps,
    boxes: FloatArray,
    classifier: DenseClassifier,
    classes: list[int],
    thresholds: Sequence[float],
    n_classes: int,
) -> NDArray[np.float32]:
    """Prior float32 (R, C) from the dense classifier's maps of the given classes, spread over similar cells."""
    prior = np.zeros((len(boxes), n_classes), np.float32)
    if not classes:
        return prior
    logits = classifier.logits(maps.cells)[[0, *(index + 1 for index in classes)]]
    found = logits.softmax(dim=0)[1:].numpy()
    spread = found.reshape(len(found), -1) @ cell_affinity(maps.cells[:MIDDLE_CHANNELS].numpy()).T
    heat = normalise(resize_bilinear(spread.reshape(found.shape), *maps.image_size))
    prior[:, classes] = component_prior(boxes, heat, thresholds)
    return prior


def enlarged(boxes: FloatArray, factor: float) -> FloatArray:
    """Boxes (n, 4) with sides `factor` times as long about their centres; not cut to the image."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(factor / 2)
    return np.concatenate([centre - half, centre + half], axis=1)


def pooled_features(maps: ImageMaps, boxes: FloatArray, context_scale: float) -> Tensor:
    """Average features inside each RoI, and their difference to those of the RoI with its surroundings.

    Args:
        maps: of the image.
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        context_scale: extent of the surroundings relative to the RoI.

    Returns:
        (R, 2560).
    """
    image, view = maps.image_size, maps.view
    scale = np.asarray([view[1] / image[1], view[0] / image[0]] * 2, np.float32)
    limits = np.asarray([image[1], image[0]] * 2, np.float32)
    around = np.clip(enlarged(boxes, context_scale), 0, limits)
    inside = _mean_over(maps.last, boxes * scale, _INSIDE_SAMPLES)
    context = _mean_over(maps.last, around * scale, _CONTEXT_SAMPLES)
    return torch.cat([inside, inside - context], dim=1)


def _mean_over(features: Tensor, boxes: FloatArray, samples: int) -> Tensor:
    pooled = roi_align(features[None], [torch.from_numpy(boxes)], 1, 1 / _TRUNK_STRIDE, samples, aligned=True)
    return pooled.flatten(1)


def probability_grid(
    probabilities: Tensor, boxes: FloatArray, image: tuple[int, int], cells: int, scale: float
) -> Tensor:
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


def component_box(heat: NDArray[np.float32], threshold: float) -> FloatArray:
    """Box (1, 4) of the largest 8-connected component where a normalised map (H, W) reaches `threshold`; or (0, 4)."""
    import cv2

    mask = (heat >= np.float32(threshold)).astype(np.uint8)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return as_boxes([])
    left, top, width, height, _ = statistics[1 + int(statistics[1:, 4].argmax())].tolist()
    return as_boxes([[left, top, left + width, top + height]])


def component_prior(
    boxes: FloatArray, maps: NDArray[np.float32], thresholds: Sequence[float]
) -> NDArray[np.float32]:
    """Mean over thresholds of the IoU of each proposal with the component's box.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        maps: float32 (k, H, W), normalised to [0, 1], at image size.
        thresholds: where the maps are cut.

    Returns:
        float32 (R, k), in [0, 1].
    """
    prior = np.zeros((len(boxes), len(maps)), np.float32)
    for column, heat in enumerate(maps):
        for threshold in thresholds:
            prior[:, column] += iou(boxes, component_box(heat, threshold)).sum(axis=1)
    return prior / np.float32(max(len(thresholds), 1))


def region_sample(
    regions: Artifact,
    image_id: str,
    prior_floor: float,
    image_labels: Tensor,
    evidence: Tensor | None = None,
) -> Sample:
    """One image of a regions artifact as the detector takes it."""
    boxes, features, prior = (
        torch.from_numpy(regions.rows(image_id, name).astype(np.float32))
        for name in ("boxes", "features", "prior")
    )
    return Sample(features, Regions(boxes, image_labels, prior + prior_floor, evidence=evidence))


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
