"""A trained detector of detectron2 on images: its boxes, and its masks where it draws some.

Masks leave a network as squares of probabilities, one for each box, or as one small image each (`whole_masks`). They are
brought to the image's size a few at a time and kept as run lengths: detectron2 pastes all at once, a gigabyte for a hundred
masks of a photograph of twelve million pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weaksam_cli.core import boxes as box_math
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import Split
from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.detectron.training import image_tensor
from weaksam_cli.retrain.detector import load_network
from weaksam_cli.retrain.settings import Inference
from weaksam_cli.retrain.whole_masks import with_drawn_masks

import_detectron2()

from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform  # noqa: E402
from detectron2.layers import batched_nms, paste_masks_in_image  # noqa: E402
from detectron2.modeling import GeneralizedRCNNWithTTA  # noqa: E402
from detectron2.modeling.postprocessing import detector_postprocess  # noqa: E402
from detectron2.structures import Instances  # noqa: E402

Detector = Callable[[NDArray[np.uint8]], Detections]
"""From an image uint8 RGB (H, W, 3) to its detections, best first."""
MASK_THRESHOLD: Final = 0.5
"""Least probability of a mask's pixel, as in detectron2."""
_PASTED_PIXELS: Final = 16_000_000
"""Of dense masks in memory, unless a single one has more."""


@dataclass(frozen=True)
class DetectImages:
    """Detections of the images of a split by a trained model.

    Attributes:
        model: the file of `fit_detector`, which tells its network.
        inference: how images are looked at.
        split: of the images.
        device: where the model goes.
    """

    model: Path
    inference: Inference
    split: Split
    device: str

    def open(self) -> Callable[[str], Detections]:
        """Load the model once a process.

        Raises:
            UserError: the model is missing, damaged, or was trained for other classes.
        """
        labels = self.split.read()
        images = labels.by_key()
        detect = load_detector(self.model, self.inference, labels.class_names, self.device)
        return lambda key: detect(labels.read_image(images[key]))


def load_detector(path: Path, inference: Inference, class_names: Sequence[str], device: str) -> Detector:
    """A trained detector; with `inference.augment` it unites the detections of all sizes and flips, class by class, and
    averages the masks that all of them draw.

    Raises:
        UserError: the file is missing, damaged, or of a model for other classes.
    """
    network, cfg = load_network(path, inference, class_names, device)
    look: Any = _Once(network, inference)
    if inference.augment:
        # A network of its own method has no second stage that could look again at what the first found.
        look = _Views(network, inference) if cfg.MODEL.METHOD.NAME else _Augmented(cfg, network)

    def detect(image: NDArray[np.uint8]) -> Detections:
        with torch.inference_mode():
            return _detections(look(image, cfg.INPUT.FORMAT).to("cpu"), *image.shape[:2])

    return detect


class _Once:
    """A network that looks at an image once, at one size; it gives instances in pixels of the image."""

    def __init__(self, network: nn.Module, inference: Inference) -> None:
        self.network: Any = network
        self.inference = inference

    def __call__(self, image: NDArray[np.uint8], channel_order: str) -> Any:
        height, width = image.shape[:2]
        shape = ResizeShortestEdge.get_output_shape(
            height, width, self.inference.short_side, self.inference.max_size
        )
        shown = ResizeTransform(height, width, *shape).apply_image(image)
        sample = {"image": image_tensor(shown, channel_order)}
        found = self.network.inference([sample], do_postprocess=False)[0]
        if found.has("mask_logits"):
            least, nms = self.inference.score_threshold, self.inference.nms
            return with_drawn_masks(found, (height, width), _PASTED_PIXELS, least, nms)
        if not found.has("pred_masks"):
            return detector_postprocess(found, height, width)
        found.probabilities = found.pred_masks  # under a name that is not pasted
        found.remove("pred_masks")
        return detector_postprocess(found, height, width)


class _Views:
    """A network without RoIs that looks at an image at several sizes, flipped too; detections of all views are united, class
    by class."""

    def __init__(self, network: nn.Module, inference: Inference) -> None:
        self.network: Any = network
        self.inference = inference

    def __call__(self, image: NDArray[np.uint8], channel_order: str) -> Any:
        inference, (height, width) = self.inference, image.shape[:2]
        found = []
        for side in inference.augment_short_sides:
            shape = ResizeShortestEdge.get_output_shape(height, width, side, inference.augment_max_size)
            shown = ResizeTransform(height, width, *shape).apply_image(image)
            for flipped in (False, True) if inference.augment_flip else (False,):
                pixels = shown[:, ::-1] if flipped else shown
                sample = {"image": image_tensor(pixels, channel_order)}
                view = detector_postprocess(
                    self.network.inference([sample], do_postprocess=False)[0], height, width
                )
                if flipped:
                    view.pred_boxes.tensor = _mirrored(view.pred_boxes.tensor, width)
                found.append(view)
        united = Instances.cat(found)
        kept = batched_nms(united.pred_boxes.tensor, united.scores, united.pred_classes, inference.nms)
        return united[kept[: inference.detections]]


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes (n, 4) of a flipped image in the image, which is so wide."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


class _Augmented(GeneralizedRCNNWithTTA):
    """detectron2's test-time augmentation, one view at a time; it gives instances in pixels of the image."""

    def __init__(self, cfg: Any, network: nn.Module) -> None:
        super().__init__(cfg, network, batch_size=1)
        self.eval()  # it has a mode of its own

    def __call__(self, image: NDArray[np.uint8], channel_order: str) -> Any:
        height, width = image.shape[:2]
        sample = {"image": image_tensor(image, channel_order), "height": height, "width": width}
        views, transforms = self._get_augmented_inputs(sample)
        with self._turn_off_roi_heads(["mask_on"]):
            boxes = self._get_augmented_boxes(views, transforms)
        found = self._merge_detections(*boxes, (height, width))
        if self.cfg.MODEL.MASK_ON:
            given = self._rescale_detected_boxes(views, found, transforms)
            found.probabilities = self._reduce_pred_masks(self._batch_inference(views, given), transforms)
        return found


def _detections(found: Any, height: int, width: int) -> Detections:
    """detectron2's instances of an image, best first."""
    scores = found.scores.numpy().astype(np.float32)
    rank = np.argsort(-scores, kind="stable")
    boxes = found.pred_boxes.tensor
    masks = None
    if found.has("probabilities"):
        order = torch.from_numpy(rank)
        masks = pasted(found.probabilities[order, 0], boxes[order], height, width)
    elif found.has("run_lengths"):
        masks = tuple(found.run_lengths[index] for index in rank.tolist())
    return Detections(
        box_math.clip(boxes.numpy().astype(np.float32), height, width)[rank],
        found.pred_classes.numpy().astype(np.int32)[rank],
        scores[rank],
        masks,
    )


def pasted(probabilities: Tensor, boxes: Tensor, height: int, width: int) -> tuple[bytes, ...]:
    """Masks of an image as compressed RLE strings.

    Args:
        probabilities: float (n, m, m), over the box of each mask.
        boxes: float (n, 4), xyxy pixel edges.
        height, width: of the image.
    """
    at_once = max(_PASTED_PIXELS // (height * width), 1)
    masks: list[bytes] = []
    for first in range(0, len(boxes), at_once):
        part = slice(first, first + at_once)
        dense = paste_masks_in_image(probabilities[part], boxes[part], (height, width), MASK_THRESHOLD)
        masks += mask_codec.encode(dense.numpy())
    return tuple(masks)
