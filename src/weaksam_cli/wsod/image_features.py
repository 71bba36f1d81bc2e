"""One image through frozen lite0: samples to learn the basis from, RoI features, and the prior of its class maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, fuse_scales
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.maps import cell_affinity, normalise, resize_bilinear
from weaksam_cli.core.random import generator_of
from weaksam_cli.models.lite0 import Lite0, view_features
from weaksam_cli.wsod.basis import Basis
from weaksam_cli.wsod.component_prior import component_prior
from weaksam_cli.wsod.dense import describe_cells, fold_of, sample_cells
from weaksam_cli.wsod.proposal_filter import ProposalFilter, filter_proposals
from weaksam_cli.wsod.recipe import PriorSettings, ProposalSettings, RegionDetectorRecipe
from weaksam_cli.wsod.region_features import pooled_features, probability_grid

_FINE = KINDS.index("fine")


@dataclass(frozen=True)
class Features:
    """Maps of one image at the detector's resolution.

    Attributes:
        last: (1280, h, w).
        cells: (432, h', w'), descriptors of the stride-16 cells.
        middle: float32 (112, h', w').
        view: height and width of the resized image.
        image: height and width of the image.
    """

    last: torch.Tensor
    cells: torch.Tensor
    middle: FloatArray
    view: tuple[int, int]
    image_size: tuple[int, int]


def image_features(backbone: Lite0, image: NDArray[np.uint8], short_side: int) -> Features:
    """One forward pass."""
    found = view_features(backbone, image, short_side, mirror=False)
    middle = torch.from_numpy(found.middle[0])
    return Features(
        torch.from_numpy(found.last[0]),
        describe_cells(middle, torch.from_numpy(found.trunk[0])),
        found.middle[0],
        found.size,
        (image.shape[0], image.shape[1]),
    )


def usable_boxes(boxes: FloatArray, height: int, width: int, settings: ProposalSettings) -> FloatArray:
    """Proposals that are used: cut to the image, large enough, different, at most so many; or the whole image."""
    chosen = boxes if settings.most is None else boxes[: settings.most]
    found = filter_proposals(chosen, height, width, ProposalFilter(settings.min_side)).boxes
    return as_boxes(found)


def image_samples(
    features: Features,
    maps: ClassMaps,
    boxes: FloatArray,
    recipe: RegionDetectorRecipe,
    image_id: str,
    seed: int,
) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    """Cells (n, 432), their labels (n,) and pooled features (m, 2560) of RoIs, drawn by a generator of the image."""
    generator = generator_of(seed, image_id)
    size = features.cells.shape[1], features.cells.shape[2]
    fused = fuse_scales(maps, _FINE, *size)
    values = np.zeros((0, *size), np.float32) if fused is None else fused
    cells, labels = sample_cells(features.cells.numpy(), values, maps.classes(), recipe.dense, generator)
    rows = np.sort(generator.choice(len(boxes), min(recipe.features.samples, len(boxes)), replace=False))
    pooled = pooled_features(
        features.last, boxes[rows], features.image_size, features.view, recipe.features.context_scale
    )
    return cells, labels, pooled.numpy()


def region_features(
    features: Features, boxes: FloatArray, basis: Basis, recipe: RegionDetectorRecipe, held_out: str | None
) -> FloatArray:
    """RoI features float32 (R, D): projected pooled features, then the probability grid.

    Args:
        features: of the image.
        boxes: float32 (R, 4).
        basis: what features are made with.
        recipe: settings.
        held_out: the image's key when it is a training image, whose own fold then answers; else all folds do.
    """
    settings = recipe.features
    pooled = pooled_features(features.last, boxes, features.image_size, features.view, settings.context_scale)
    classifiers = basis.folds if held_out is None else [basis.folds[fold_of(held_out, len(basis.folds))]]
    probabilities = torch.stack([item.logits(features.cells).softmax(dim=0) for item in classifiers]).mean(
        dim=0
    )
    grid = probability_grid(probabilities, boxes, features.image_size, settings.grid, settings.grid_scale)
    return torch.cat([basis.components.project(pooled), grid], dim=1).numpy()


def class_map_prior(
    features: Features,
    boxes: FloatArray,
    basis: Basis,
    classes: list[int],
    settings: PriorSettings,
    n_classes: int,
) -> NDArray[np.float32]:
    """Prior float32 (R, C) from the dense classifier's maps of the given classes, spread over similar cells."""
    prior = np.zeros((len(boxes), n_classes), np.float32)
    if not classes:
        return prior
    logits = basis.whole.logits(features.cells)[[0, *(index + 1 for index in classes)]]
    maps = logits.softmax(dim=0)[1:].numpy()
    spread = maps.reshape(len(maps), -1) @ cell_affinity(features.middle).T
    heat = normalise(resize_bilinear(spread.reshape(maps.shape), *features.image_size))
    prior[:, classes] = component_prior(boxes, heat, settings.thresholds)
    return prior


def feature_size(recipe: RegionDetectorRecipe, n_components: int, n_classes: int) -> int:
    """D."""
    return n_components + (n_classes + 1) * recipe.features.grid**2
