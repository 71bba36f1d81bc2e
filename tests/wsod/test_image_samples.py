"""What the feature model is learned from: cells and RoIs of each training image."""

from __future__ import annotations

import numpy as np
import torch

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.wsod.dense import CELL_CHANNELS
from weaksam_cli.wsod.image_features import Features, image_samples
from weaksam_cli.wsod.recipe import DenseSettings, FeatureSettings, RegionDetectorRecipe


def drawn(key: str, seed: int = 0) -> list[float]:
    """The pooled features of the RoIs that are drawn; every image is the same but for its key."""
    features = Features(
        torch.arange(64.0).reshape(1, 8, 8).expand(1280, 8, 8),
        torch.zeros(CELL_CHANNELS, 16, 16),
        np.zeros((112, 16, 16), np.float32),
        (256, 256),
        (256, 256),
    )
    maps = ClassMaps(
        np.asarray([0], np.int32),
        np.asarray([KINDS.index("fine")], np.int8),
        np.zeros(1, np.int16),
        np.ones(1, np.float32),
        (np.eye(16, dtype=np.float32),),
        (256, 256),
        np.ones(1, np.float32),
    )
    left = np.arange(0, 200, 4, dtype=np.float32)
    boxes = np.stack([left, left, left + 50, left + 50], axis=1)
    recipe = RegionDetectorRecipe(
        method="oicr", dense=DenseSettings(cells=4), features=FeatureSettings(samples=4)
    )
    pooled = image_samples(features, maps, boxes, recipe, key, seed)[2]
    assert pooled.shape == (4, 2560)
    return [float(value) for value in pooled[:, 0]]


def test_images_whose_names_end_alike_draw_differently() -> None:
    keys = ["2008_000021.jpg", "2009_000021.jpg", "a/2009_000021.jpg", "b/2009_000021.jpg"]
    assert len({tuple(drawn(key)) for key in keys}) == len(keys)
    assert drawn(keys[0]) == drawn(keys[0]) != drawn(keys[0], seed=1)
