"""What a trained detector sees of a RoI: its own features of any boxes of an image (spec 07 §6, Fig. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.wsod.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.lite0 import Lite0
    from weaksam_cli.wsod.vgg16 import Vgg16

Layer = Literal["pooled", "heads"]
"""`pooled` is what RoI pooling gives; `heads` is what the heads read, after fc7 (vgg16) or standardised (lite0)."""
RegionFeatures = Callable[[str, NDArray[np.uint8], Sequence[FloatArray]], list[FloatArray]]
"""From an image's key, its pixels uint8 RGB (H, W, 3) and sets of boxes (n, 4), xyxy pixel edges, to features (n, D)."""


@dataclass(frozen=True)
class TrainedDetector:
    """A detector of `weaksam wsod`, as its network finds its parts.

    Attributes:
        method: that it was trained with.
        folder: of its files.
        class_names: that it was trained for.
        is_training: images are those that it learnt from.
        device: where a network goes that is not small.
    """

    method: Method
    folder: Path
    class_names: list[str]
    is_training: bool
    device: str

    @property
    def model(self) -> Path:
        """The file of its heads, or of all of it."""
        return self.folder / "model.safetensors"


def lite0_features(network: Lite0, trained: TrainedDetector, layer: Layer) -> RegionFeatures:
    """Of the detectors on frozen lite0. Pooled: the mean of its last map inside the RoI, and the difference to the mean
    around it, D = 2560.

    Raises:
        UserError: a file of the detector is missing or damaged.
    """
    import torch

    from weaksam_cli.models.lite import load_lite
    from weaksam_cli.training.checkpoint import read_tensors
    from weaksam_cli.wsod.detector import Standardise
    from weaksam_cli.wsod.feature_model import FeatureModel
    from weaksam_cli.wsod.roi_features import image_maps, pooled_features, roi_features

    backbone, settings = load_lite("lite0"), network.features
    parts = FeatureModel.read(trained.folder / "feature_model.safetensors", trained.class_names)
    weights = read_tensors(trained.model)
    standardise = Standardise(torch.stack([weights["neck.mean"], weights["neck.deviation"]]))

    def features(key: str, image: NDArray[np.uint8], sets: Sequence[FloatArray]) -> list[FloatArray]:
        maps = image_maps(backbone, image, network.dense.short_side)
        if layer == "pooled":
            return [pooled_features(maps, boxes, settings.context_scale).numpy() for boxes in sets]
        classifiers = parts.of_image(key, is_training=trained.is_training)
        given = [roi_features(maps, boxes, parts, classifiers, settings) for boxes in sets]
        return [standardise(torch.from_numpy(item)).numpy() for item in given]

    return features


def vgg16_features(network: Vgg16, trained: TrainedDetector, layer: Layer) -> RegionFeatures:
    """Of the detectors on VGG16, by the first of the views that it detects in. Pooled: 7 x 7 cells of conv5_3, or of what
    the method makes of it, D = 25088 at full width; never negative with `last_relu`, of either sign without (MIST).

    Raises:
        UserError: the file of the detector is missing, damaged, or for other classes.
    """
    import torch

    from weaksam_cli.wsod.detector import load_detector
    from weaksam_cli.wsod.vgg_detector import VggDetector, view_sample
    from weaksam_cli.wsod.views import test_views

    fresh = VggDetector(trained.method, network, len(trained.class_names)).to(trained.device)
    load_detector(fresh, trained.model, trained.class_names)
    seen: list[tuple[Tensor, Tensor]] = []
    fresh.neck.register_forward_hook(lambda _, given, found: seen.append((given[0], found)))

    def features(_: str, image: NDArray[np.uint8], sets: Sequence[FloatArray]) -> list[FloatArray]:
        view = next(test_views(image, np.concatenate(sets), network))
        seen.clear()
        with torch.inference_mode():
            fresh.outputs([view_sample(view, torch.zeros(0)).to(torch.device(trained.device))])
        pooled, hidden = seen[0]
        vectors = pooled.flatten(1) if layer == "pooled" else hidden
        ends = np.cumsum([len(boxes) for boxes in sets])
        return np.split(vectors.float().cpu().numpy(), ends)[:-1]

    return features
