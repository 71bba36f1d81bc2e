"""What a detector, trained or in training, would be taught by each RoI (DINO: query) of an image: losses that nobody learns
from.

The network is in training mode: its proposals are those of the training, pseudo boxes among them, matched and sampled as
there. Statistics of batch normalisation stay as they are, so that images do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import Detections
from weaksam_cli.detectron.training import image_tensor
from weaksam_cli.engine.methods import load_method
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.detector import build_network, config_of
from weaksam_cli.retrain.rcnn import RoiDrop
from weaksam_cli.training.checkpoint import Checkpoint, load_model, read_checkpoint, read_metadata

CHECKPOINT_SUFFIX = ".pt"


@dataclass(frozen=True)
class Sampling:
    """Which RoIs of an image are looked at.

    Attributes:
        regions: as many of an image.
        foreground: largest share of them that is foreground.
        short_side: of the image as the network sees it, pixels; None: the largest of the training.
    """

    regions: int
    foreground: float
    short_side: int | None = None


@dataclass(frozen=True)
class Regions:
    """RoIs of one image with their losses.

    Attributes:
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        class_index: int32 (R,), the class that each is to be; -1 for background.
        classification: float32 (R,), cross-entropy, natural logarithm.
        regression: float32 (R,), L1 distance summed over four weighted deltas; NaN for background.
        assigned: int32 (R,), the pseudo box that each is matched with, -1 for background; None where their overlap tells.
    """

    boxes: FloatArray
    class_index: NDArray[np.int32]
    classification: NDArray[np.float32]
    regression: NDArray[np.float32]
    assigned: NDArray[np.int32] | None = None

    @classmethod
    def none(cls) -> Regions:
        """Of an image that is not learnt from."""
        return cls(as_boxes([]), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))


RegionLosses = Callable[[NDArray[np.uint8], Detections, int], Regions]
"""From an image uint8 RGB (H, W, 3), its pseudo boxes and a seed of the sampling to its RoIs."""


@dataclass(frozen=True)
class Description:
    """What the file of a detector, finished or not, tells of it.

    Attributes:
        cfg: detectron2's configuration.
        iterations: that are done.
        roi_drop: with RoI heads.
        percentile: of query drop, with queries in their place.
    """

    cfg: Any
    iterations: int
    roi_drop: RoiDrop | None = None
    percentile: int | None = None


def read_description(path: Path, class_names: Sequence[str] | None = None) -> Description:
    """What a model.safetensors of `retrain`, or a checkpoint of its training, tells.

    Raises:
        UserError: it is missing, damaged, for other classes, without RoI heads, or a checkpoint of a program that did not
            write it down.
    """
    metadata, iterations = _metadata(path)
    cfg = config_of(metadata, path, class_names)
    name = cfg.MODEL.METHOD.NAME
    if not name:
        return Description(cfg, iterations, roi_drop=RoiDrop(**cfg.MODEL.ROI_HEADS.DROP))
    percentile_of = getattr(load_method("retrain", name, where=str(path)), "percentile_of", None)
    if percentile_of is None:
        what = f"is a detector of {name}, which has no regions of interest, and no query drop"
        remedy = (
            "Give a detector that drops regions or queries: weaksam retrain --recipe faster-rcnn-lite2-fpn"
        )
        raise UserError(what, where=str(path), remedy=remedy)
    return Description(cfg, iterations, percentile=percentile_of(cfg))


def _metadata(path: Path) -> tuple[dict[str, Any], int]:
    if path.suffix != CHECKPOINT_SUFFIX:
        metadata = read_metadata(path)
        return metadata, int(metadata.get("schedule", {}).get("iterations") or 0)
    checkpoint = _checkpoint(path)
    return checkpoint.metadata, checkpoint.iteration


def _checkpoint(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(path, None)
    if checkpoint is None:
        raise UserError("there is no such file", where=str(path))
    if not checkpoint.metadata:
        remedy = "Go on with the training until it writes the next one"
        raise UserError("the checkpoint does not tell of what network it is", where=str(path), remedy=remedy)
    return checkpoint


def load_region_losses(
    path: Path, class_names: Sequence[str], sampling: Sampling, device: str
) -> RegionLosses:
    """The network of a model.safetensors of `retrain`, or of a checkpoint of its training.

    Raises:
        UserError: as `read_description`, or its weights are of another network.
    """
    from detectron2.data.transforms import ResizeShortestEdge

    cfg = read_description(path, class_names).cfg
    cfg.MODEL.DEVICE = device
    model: Any = build_network(cfg)
    if path.suffix == CHECKPOINT_SUFFIX:
        model.load_state_dict(_checkpoint(path).model)
    else:
        load_model(model, path)
    _as_in_training(model, sampling)
    short_side = sampling.short_side or max(cfg.INPUT.MIN_SIZE_TRAIN)
    resize = ResizeShortestEdge(short_side, cfg.INPUT.MAX_SIZE_TRAIN)

    def losses(image: NDArray[np.uint8], pseudo: Detections, seed: int) -> Regions:
        height, width = image.shape[:2]
        has_area = box_math.area(box_math.clip(pseudo.boxes, height, width)) > 0
        kept = pseudo.take(has_area)
        if not len(kept):
            return Regions.none()
        shown = resize.get_transform(image).apply_image(image)
        factors = shown.shape[1] / width, shown.shape[0] / height
        boxes = box_math.scale(box_math.clip(kept.boxes, height, width), *factors)
        torch.manual_seed(seed)
        tensor = image_tensor(shown, cfg.INPUT.FORMAT)
        if cfg.MODEL.METHOD.NAME:
            regions = _queries(model, tensor, boxes, kept.class_index, sampling.regions)
            places = np.flatnonzero(has_area)
            return replace(
                regions,
                boxes=box_math.scale(regions.boxes, 1 / factors[0], 1 / factors[1]),
                assigned=np.append(places, -1)[regions.assigned].astype(np.int32),
            )
        found, sampled = _forward(model, tensor, boxes, kept.class_index)
        return _regions(found, sampled, factors, len(class_names))

    return losses


def _as_in_training(model: Any, sampling: Sampling) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    if not hasattr(model, "roi_heads"):
        return
    model.roi_heads.batch_size_per_image = sampling.regions
    model.roi_heads.positive_fraction = sampling.foreground


def _forward(
    model: Any, image: torch.Tensor, boxes: FloatArray, class_index: NDArray[np.int32]
) -> tuple[Any, Any]:
    """The losses of the sampled RoIs, and the RoIs, in pixels of the image as the network sees it."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    targets = Instances(tuple(image.shape[1:]))
    targets.gt_boxes = Boxes(torch.from_numpy(boxes))
    targets.gt_classes = torch.from_numpy(class_index.astype(np.int64))
    with torch.no_grad(), EventStorage(0):
        images = model.preprocess_image([{"image": image}])
        targets = targets.to(model.device)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, [targets])
        (sampled,) = model.roi_heads.label_and_sample_proposals(proposals, [targets])
        return model.roi_heads.region_losses(features, [sampled]), sampled


def _queries(
    model: Any, image: torch.Tensor, boxes: FloatArray, class_index: NDArray[np.int32], most: int
) -> Regions:
    """Queries of the last layer, the foreground first, then background of largest cost: `most` of them, or all foreground.

    Boxes are in pixels of the image as the network sees it.
    """
    with torch.no_grad():
        found = model.query_losses(
            image, torch.from_numpy(boxes), torch.from_numpy(class_index.astype(np.int64))
        )
    told = [item.cpu().numpy() for item in found]
    places, classification, regression, assigned = (np.asarray(item) for item in told)
    thing = assigned >= 0
    order = np.lexsort((-classification, ~thing))[: max(most, int(thing.sum()))]
    return Regions(
        places[order].astype(np.float32),
        np.append(class_index, -1)[assigned[order]].astype(np.int32),
        classification[order].astype(np.float32),
        np.where(thing, regression, np.nan)[order].astype(np.float32),
        assigned[order].astype(np.int32),
    )


def _regions(found: Any, sampled: Any, factors: tuple[float, float], class_count: int) -> Regions:
    classes = found.classes.cpu().numpy()
    distances = np.full(len(classes), np.nan, np.float32)
    distances[found.foreground.cpu().numpy()] = found.regression.cpu().numpy()
    boxes = sampled.proposal_boxes.tensor.cpu().numpy()
    return Regions(
        box_math.scale(boxes, 1 / factors[0], 1 / factors[1]),
        np.where(classes < class_count, classes, -1).astype(np.int32),
        found.classification.cpu().numpy(),
        distances,
    )
