"""Views of an image through lite0: resized, and mirrored where asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.models.lite0 import Lite0, preprocess


def resize_to_short_side(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its shorter side at `short_side`: areas when it shrinks, bicubic when it grows."""
    import cv2

    height, width = image.shape[:2]
    factor = short_side / min(height, width)
    # A strip of extreme shape is not blown up along its long side beyond what any photograph needs.
    factor = min(factor, 8 * short_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


@dataclass(frozen=True)
class ViewFeatures:
    """Maps of the n views of an image: the image itself and, where asked for, its mirror image.

    Attributes:
        last: float32 (n, 1280, h, w), the backbone's last map.
        trunk: float32 (n, 320, h, w), the map of stride 32 before its last convolution.
        middle: float32 (n, 112, h', w'), the map of stride 16.
        size: height and width of the resized image.
    """

    last: NDArray[np.float32]
    trunk: NDArray[np.float32]
    middle: NDArray[np.float32]
    size: tuple[int, int]


@torch.inference_mode()
def view_features(
    backbone: Lite0, image: NDArray[np.uint8], short_side: int, *, mirror: bool = True
) -> ViewFeatures:
    """Features of an image uint8 RGB (H, W, 3) at one size, plain and mirrored."""
    resized = resize_to_short_side(image, short_side)
    views = preprocess(np.stack([resized, resized[:, ::-1]] if mirror else [resized]))
    maps = backbone.pyramid(views)
    trunk = maps["stride32"]
    return ViewFeatures(
        backbone.head(trunk).numpy(),
        trunk.numpy(),
        maps["stride16"].numpy(),
        (resized.shape[0], resized.shape[1]),
    )


def pooled_views(backbone: Lite0, image: NDArray[np.uint8], short_side: int) -> NDArray[np.float32]:
    """Globally averaged features (2, 1280) of an image and its mirror image."""
    means: NDArray[np.float32] = view_features(backbone, image, short_side).last.mean(axis=(2, 3))
    return means
