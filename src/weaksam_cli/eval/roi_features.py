"""RoI-pooled features of proposals, from frozen EfficientNet-Lite0 with ImageNet weights.

The published analysis names no network; the natural one is the detector's. Ours stands on lite0, so its maps are pooled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, scale
from weaksam_cli.detectron.dense_roi_align import DenseRoiAlign
from weaksam_cli.models.lite0 import Lite0, view_features

BINS: Final = 7
_SAMPLES = 2

Layer = Literal["head", "stride16"]
STRIDE: Final[dict[Layer, int]] = {"head": 32, "stride16": 16}
"""`head`: 1280 channels after ReLU6, never negative, which the embedded detectors pool. `stride16`: 112 channels of a linear
bottleneck, of either sign, with finer cells."""


@dataclass(frozen=True)
class ImageMaps:
    """Maps of one image.

    Attributes:
        maps: layer to float32 (c, h, w).
        image: height and width of the image.
        view: height and width of the resized image that the network saw.
    """

    maps: dict[Layer, torch.Tensor]
    image_size: tuple[int, int]
    view: tuple[int, int]

    def pool(self, layer: Layer, boxes: FloatArray) -> NDArray[np.float32]:
        """RoIAlign to 7 x 7 bins, flattened.

        Args:
            layer: which map.
            boxes: float32 (n, 4), xyxy pixel edges of the image.

        Returns:
            float32 (n, c * 49).
        """
        height, width = self.image_size
        in_view = scale(boxes, self.view[1] / width, self.view[0] / height)
        rois = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1), np.float32), in_view], axis=1))
        align = DenseRoiAlign(BINS, 1 / STRIDE[layer], _SAMPLES)
        pooled: NDArray[np.float32] = align(self.maps[layer][None], rois).flatten(1).numpy()
        return pooled


def image_maps(backbone: Lite0, image: NDArray[np.uint8], short_side: int) -> ImageMaps:
    """One forward pass of an image uint8 RGB (H, W, 3), resized to `short_side` pixels on its shorter side."""
    found = view_features(backbone, image, short_side, mirror=False)
    maps: dict[Layer, torch.Tensor] = {
        "head": torch.from_numpy(found.last[0]),
        "stride16": torch.from_numpy(found.middle[0]),
    }
    return ImageMaps(maps, (image.shape[0], image.shape[1]), found.size)
