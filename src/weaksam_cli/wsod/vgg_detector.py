"""Detectors on VGG16: from views and proposals to losses, or to detections averaged over views (spec 04 §A, §B)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_pool

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError
from weaksam_cli.models.vgg16 import POOLED, STRIDE, DilatedVgg16, VggNeck, load_vgg16
from weaksam_cli.training.batches import LoadItem, augmentation_rng
from weaksam_cli.wsod.detector import Answer, RegionDetector, Sample, select_detections
from weaksam_cli.wsod.evidence import EvidenceOf, no_evidence
from weaksam_cli.wsod.method import Method, Outputs, Regions, Rois
from weaksam_cli.wsod.mining import without_last_pixel
from weaksam_cli.wsod.settings import InferenceSettings
from weaksam_cli.wsod.used_proposals import image_loader
from weaksam_cli.wsod.vgg16 import DetectionSettings, TrainingSettings, Vgg16Training
from weaksam_cli.wsod.views import View, boxes_to_image, paired_views, test_views, training_view

_PADDED_TO: Final = 32
"""Sides of what the network sees are multiples of so many pixels, also of one image alone (spec 04 §A.5)."""
_MAPS: Final = 3
"""The last blocks whose outputs methods see; those before are often frozen, and nobody pools from them."""


class VggDetector(RegionDetector):
    """VGG16 with the heads of a method, with fresh weights (seed torch before).

    Args:
        method: what is trained.
        network: shape of VGG16.
        class_count: C.
    """

    def __init__(self, method: Method, network: Vgg16Training, class_count: int) -> None:
        backbone = DilatedVgg16(
            network.widths,
            ceil_mode=network.ceil_mode,
            last_relu=network.last_relu,
            frozen_blocks=network.frozen_blocks,
        )
        channels = network.widths[-1]
        neck = VggNeck(channels, network.hidden, network.dropout)
        super().__init__(method, neck, network.hidden, class_count, channels)
        self.backbone = backbone
        method.complete(self)

    def outputs(self, samples: Sequence[Sample]) -> list[Outputs]:
        """All RoIs of all views of all images go through the heads together."""
        views = [view for item in samples for view in (item, *item.views)]
        images = padded([view.input for view in views])
        maps = self.backbone.maps(images)[-_MAPS:]
        own = [view.regions.boxes for view in views]

        def pool(
            features: Tensor | None = None, stride: int = STRIDE, boxes: Sequence[Tensor] | None = None
        ) -> Tensor:
            return pool_rois(
                maps[-1] if features is None else features, own if boxes is None else boxes, stride
            )

        sizes = [(view.input.shape[1], view.input.shape[2]) for view in views]
        rois = Rois([view.regions for view in views], pool, maps, images, sizes)
        found = self.method.outputs_of_rois(self.heads, rois, self.neck)
        counts = [len(item.boxes) for item in found.regions or rois.regions]
        starts = np.cumsum([0, *counts]).tolist()
        firsts = np.cumsum([0, *(1 + len(item.views) for item in samples)]).tolist()
        return [found.rows(starts[a], starts[b], a, b) for a, b in pairwise(firsts)]


def padded(images: Sequence[Tensor]) -> Tensor:
    """Images (3, h, w) as one tensor (B, 3, H, W); zeros fill up the right and bottom."""
    height, width = (
        -(-max(item.shape[side] for item in images) // _PADDED_TO) * _PADDED_TO for side in (1, 2)
    )
    return torch.stack(
        [F.pad(item, (0, width - item.shape[2], 0, height - item.shape[1])) for item in images]
    )


def pool_rois(features: Tensor, boxes: Sequence[Tensor], stride: int = STRIDE) -> Tensor:
    """Largest feature in each of 7 x 7 cells of every RoI (RoIPool of Fast R-CNN); 0 in a cell outside the map.

    MIST's operator takes inclusive pixel indexes, rounds their eighth to cells and counts both ends in; right and bottom are
    made such indexes here. OICR departs from its publication, whose operator (mmcv's) does not round: a RoI may cover a
    cell less there.

    Args:
        features: (B, C, h, w).
        boxes: for each image (R, 4), xyxy pixel edges.
        stride: pixels a cell.

    Returns:
        (sum of all R, C, 7, 7), the images one after the other.
    """
    inclusive = [without_last_pixel(item) for item in boxes]
    # Coordinates would lose whole pixels in float16, and the operator wants one type.
    pooled: Tensor = roi_pool(features.float(), inclusive, POOLED, 1 / stride)
    return pooled.to(features.dtype)


def build_vgg_detector(
    method: Method, network: Vgg16Training, class_count: int, weights: Path | None
) -> VggDetector:
    """The detector with VGG16's ImageNet weights and fresh heads (seed torch before).

    Args:
        method: what is trained.
        network: shape of VGG16, which the file has to fit, and the pixels that it is shown.
        class_count: C.
        weights: file of VGG16's ImageNet weights; None leaves all weights fresh.

    Raises:
        UserError: the file is missing, damaged or does not fit, or was trained with another order of the channels.
    """
    detector = VggDetector(method, network, class_count)
    if weights is None:
        return detector
    assert isinstance(detector.neck, VggNeck)
    told = load_vgg16(detector.backbone, detector.neck, weights)
    order, shown = told if network.weights_order == "auto" else network.weights_order, network.pixels.order
    if order != shown:
        raise UserError(
            f"the file was trained with {order} pixels",
            where=f"network.pixels.order = {shown} with {weights}",
            remedy=f"Use --set network.pixels.order={order}, with its mean and deviation: oicr-vgg16 has Caffe's for BGR, "
            f"oicr-vgg16-coco14 torchvision's for RGB; or --set network.weights_order={shown}, where the layout of the "
            "file misleads",
        )
    return detector


def sample_loader(
    labels: Labels,
    proposals: Artifact,
    vectors: Mapping[str, Tensor],
    settings: TrainingSettings,
    seed: int,
    evidence: EvidenceOf = no_evidence,
) -> LoadItem:
    """From iteration, position in the step and index of an image to a view of it; a pure function.

    Args:
        labels: of the training split.
        proposals: artifact of the split, open.
        vectors: key -> labels, float (C,), of each image that is learnt from.
        settings: how images are changed, and which proposals are used.
        seed: decides every view.
        evidence: of an image.
    """
    read, keys = image_loader(labels, proposals, settings.proposals), list(vectors)

    def load(iteration: int, position: int, index: int) -> Sample:
        rng, key = augmentation_rng(seed, iteration, position), keys[index]
        pixels, used = read(key)
        return training_sample(pixels, used.boxes, vectors[key], evidence(key), settings, rng)

    return load


def training_sample(
    image: NDArray[np.uint8],
    boxes: FloatArray,
    image_labels: Tensor,
    evidence: Tensor | None,
    settings: TrainingSettings,
    rng: np.random.Generator,
) -> Sample:
    """An image as a training step sees it, in as many views as the method has.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), the proposals, xyxy pixel edges of the image.
        image_labels: (C,).
        evidence: float32 (R, k), where the method asks for it.
        settings: method and network.
        rng: draws the views.
    """
    if settings.method.views == 1:
        return view_sample(training_view(image, boxes, settings.network, rng), image_labels, evidence)
    pairs = paired_views(image, boxes, settings.network, rng)
    views = [view_sample(view, image_labels, evidence) for view in pairs]
    mirrored = tuple(view.mirrored for view in pairs)
    return Sample(views[0].input, replace(views[0].regions, mirrored=mirrored), tuple(views[1:]))


def view_sample(view: View, image_labels: Tensor, evidence: Tensor | None = None) -> Sample:
    """A view as a detector takes it."""
    regions = Regions(
        torch.from_numpy(view.boxes), image_labels, evidence=evidence, mirrored=(view.mirrored,)
    )
    return Sample(torch.from_numpy(view.pixels), regions)


def detect(
    network: Callable[[list[Sample]], Sequence[Answer]],
    image: NDArray[np.uint8],
    boxes: FloatArray,
    settings: DetectionSettings,
    evidence: Tensor | None = None,
) -> Detections:
    """Detections of one image, class by class and by decreasing score within a class.

    Args:
        network: a detector in evaluation mode, which answers each view and takes it to its own device.
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), the proposals, xyxy pixel edges.
        settings: views and selection.
        evidence: float32 (R, k), of the proposals.
    """
    answers = _answers(network, image, boxes, settings, evidence)
    if settings.method.finds_boxes:
        return joined_detections(
            [select_detections(*own, settings.inference) for own in answers], settings.inference
        )
    box_sum = score_sum = np.zeros((), np.float32)
    count = np.float32(0)
    for places, scores in answers:
        box_sum, score_sum, count = box_sum + places, score_sum + scores, count + 1
    return select_detections(box_sum / count, score_sum / count, settings.inference)


def _answers(
    network: Callable[[list[Sample]], Sequence[Answer]],
    image: NDArray[np.uint8],
    boxes: FloatArray,
    settings: DetectionSettings,
    evidence: Tensor | None,
) -> Iterator[tuple[FloatArray, NDArray[np.float32]]]:
    """Boxes in the image and scores of each view, see `detect`."""
    views = test_views(image, boxes, settings.network)
    view = next(views, None)
    while view is not None:
        with torch.inference_mode():
            (answer,) = network([view_sample(view, torch.zeros(0), evidence)])
        # A GPU is still at work now: the next view is made before anything waits for the answer.
        following = next(views, None)
        places = answer.boxes.float().cpu().numpy()
        yield boxes_to_image(places, view, *image.shape[:2]), answer.scores.float().cpu().numpy()
        view = following


def joined_detections(views: Sequence[Detections], settings: InferenceSettings) -> Detections:
    """Detections of all views of an image together, selected once more."""
    found = Detections.concatenate(views)
    scores = np.zeros((len(found), int(found.class_index.max(initial=-1)) + 1), np.float32)
    scores[np.arange(len(found)), found.class_index] = found.scores
    return select_detections(found.boxes, scores, settings)
