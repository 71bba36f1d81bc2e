"""Class activation maps of the linear head, plain (`coarse`) and spread over similar cells (`fine`).

`coarse` is the plain map, negative evidence cut off, one per scale. `fine` is the sum of the coarse maps of all scales,
multiplied by the affinity of the image's own stride-16 features: what WeakTr and MCTformer do with patch-to-patch
attention (spec 01 §a.5, §b.3), a convolutional network does with the similarity of cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.cam.lite0_head import LinearHead
from weaksam_cli.core.maps import cell_affinity

FloatArray = NDArray[np.float32]


def activation_maps(features: FloatArray, head: LinearHead, classes: Sequence[int]) -> FloatArray:
    """Plain maps of some classes: the head's weights at every cell, without the bias, negative values cut to 0.

    Args:
        features: float32 (channels, h, w), the backbone's last map of one view.
        head: the classifier.
        classes: k class indexes, the image's labels as a rule.

    Returns:
        float32 (k, h, w).
    """
    weight = head.weight[np.asarray(classes, dtype=np.int64)]
    evidence = weight @ features.reshape(len(features), -1)
    return np.maximum(evidence, np.float32(0)).reshape(len(weight), *features.shape[1:])


def coarse_maps(
    plain: FloatArray, mirrored: FloatArray, head: LinearHead, classes: Sequence[int]
) -> FloatArray:
    """Maps of one scale: the mean of a view and its mirror image, negative evidence cut off after the mean.

    Args:
        plain: float32 (channels, h, w), features of the image.
        mirrored: float32 (channels, h, w), features of the mirrored image (still mirrored).
        head: the classifier.
        classes: k class indexes.

    Returns:
        float32 (k, h, w).
    """
    return activation_maps((plain + mirrored[:, :, ::-1]) / np.float32(2), head, classes)


def fine_maps(
    coarse: Sequence[FloatArray],
    features: FloatArray,
    *,
    threshold: float = 0.2,
    power: float = 2.0,
    rounds: int = 2,
) -> FloatArray:
    """The coarse maps of all scales, added on the grid of `features` and spread over similar cells.

    Args:
        coarse: per scale float32 (k, h_s, w_s), see `coarse_maps`.
        features: float32 (channels, h, w), a finer map of the backbone (stride 16 of the largest scale).
        threshold: see `cell_affinity`.
        power: see `cell_affinity`.
        rounds: how often the maps are multiplied by the affinity; 0 leaves the sum as it is.

    Returns:
        float32 (k, h, w).

    Raises:
        ValueError: when there is no scale, or the scales do not have the same classes.
    """
    if not coarse or any(len(maps) != len(coarse[0]) for maps in coarse):
        raise ValueError(f"coarse: expected maps of the same classes, got shapes {[m.shape for m in coarse]}")
    height, width = features.shape[1:]
    total = np.stack([resize_maps(maps, height, width) for maps in coarse]).sum(axis=0, dtype=np.float32)
    spread = total.reshape(len(total), height * width)
    if rounds:
        affinity = cell_affinity(features, threshold=threshold, power=power)
        for _ in range(rounds):
            spread = spread @ affinity.T
    return spread.reshape(len(total), height, width)


def resize_maps(maps: FloatArray, height: int, width: int) -> FloatArray:
    """Maps (k, h, w) resized bilinearly to (k, height, width), half-pixel centres (`align_corners=False`)."""
    import torch
    import torch.nn.functional as F

    if not len(maps):
        return np.zeros((0, height, width), np.float32)
    stacked = torch.from_numpy(np.ascontiguousarray(maps))[None]
    resized = F.interpolate(stacked, size=(height, width), mode="bilinear", align_corners=False)
    answer: FloatArray = resized[0].numpy()
    return answer
