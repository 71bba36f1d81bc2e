"""Detections of a trained detector, with or without test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.modeling import GeneralizedRCNNWithTTA  # noqa: E402

from weaksam_cli.core.boxes import clip  # noqa: E402
from weaksam_cli.core.types import Detections  # noqa: E402
from weaksam_cli.detectron.resize import resize, resized_shape  # noqa: E402
from weaksam_cli.retrain.dataset import ImageReader, image_tensor  # noqa: E402
from weaksam_cli.retrain.recipe import Inference  # noqa: E402

Detector = Callable[[NDArray[np.uint8]], Detections]
"""From an image uint8 RGB (H, W, 3) to its detections."""


def make_detector(model: nn.Module, cfg: Any, inference: Inference) -> Detector:
    """A function that detects in one image; puts the model in evaluation mode.

    With `inference.augment` it is detectron2's test-time augmentation: the united detections of all sizes and flips,
    suppressed class by class.

    Args:
        model: of `build_detector`, with trained weights.
        cfg: the detectron2 configuration that it was built from.
        inference: sizes.
    """
    model.eval()
    order = str(cfg.INPUT.FORMAT)
    if inference.augment:
        augmented = GeneralizedRCNNWithTTA(cfg, model, batch_size=1).eval()
        return lambda image: _detect(augmented, image, image, order)

    def detect(image: NDArray[np.uint8]) -> Detections:
        shape = resized_shape(image.shape[0], image.shape[1], inference.short_side, inference.max_size)
        return _detect(model, image, resize(image, *shape), order)

    return detect


def predict(
    detector: Detector, image_files: Iterable[tuple[str, str]], read_image: ImageReader
) -> Iterator[tuple[str, Detections]]:
    """Detections of each of `image_files` (key, path), in order."""
    for key, path in image_files:
        yield key, detector(read_image(path))


def _detect(
    model: nn.Module, original: NDArray[np.uint8], image: NDArray[np.uint8], order: str
) -> Detections:
    height, width = original.shape[:2]
    with torch.inference_mode():
        answer = model([{"image": image_tensor(image, order), "height": height, "width": width}])
    instances = answer[0]["instances"].to("cpu")
    scores = instances.scores.numpy().astype(np.float32)
    rank = np.argsort(-scores, kind="stable")
    return Detections(
        clip(instances.pred_boxes.tensor.numpy().astype(np.float32), height, width)[rank],
        instances.pred_classes.numpy().astype(np.int32)[rank],
        scores[rank],
    )
