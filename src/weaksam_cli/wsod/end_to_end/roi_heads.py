"""Heads of MIST and OICR over RoIs pooled from a map of VGG16, as detectron2 modules (spec 04 §A.1, §A.2, §A.6, §B)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, roi_pool

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.models.vgg16 import POOLED, STRIDE, VGG16, Vgg16Shape, VggNeck
from weaksam_cli.wsod.box_geometry import decode
from weaksam_cli.wsod.end_to_end.drop_block import ConcreteDropBlock
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe
from weaksam_cli.wsod.objectives import HeadOutputs, mean_losses, mist_losses, oicr_losses

import_detectron2()

from detectron2.modeling import ROI_HEADS_REGISTRY  # noqa: E402
from detectron2.modeling.roi_heads import ROIHeads  # noqa: E402
from detectron2.structures import ImageList, Instances  # noqa: E402

_BRANCHES: Final = 3
"""Refinement branches of both methods."""


@dataclass(frozen=True)
class Scored:
    """What the detector says of the R proposals of one view.

    Attributes:
        scores: float32 (R, C), probabilities without that of the background.
        boxes: float32, xyxy pixel edges in the view and inside it: (R, C, 4), one for each class, from a detector
            that regresses boxes; else (R, 4), the proposals as they came.
    """

    scores: Tensor
    boxes: Tensor


@ROI_HEADS_REGISTRY.register()
class VggWeakRoiHeads(ROIHeads):
    """RoI pooling, the full layers of VGG16, WSDDN's two streams and three refinement branches.

    Tensors of the branches are named `refinements.<i>`, their regressions `regressions.<i>`.

    Args:
        recipe: a MIST has C + 1 outputs everywhere, regressions and, where said so, DropBlock; an OICR has C outputs in
            the two streams and no regressions.
        class_count: C.
        shape: widths of VGG16.
    """

    def __init__(self, recipe: MistRecipe | OicrRecipe, class_count: int, shape: Vgg16Shape = VGG16) -> None:
        super().__init__(
            num_classes=class_count, batch_size_per_image=1, positive_fraction=1.0, proposal_matcher=None
        )
        self.recipe = recipe
        mist = isinstance(recipe, MistRecipe)
        streams = class_count + 1 if mist else class_count
        self.neck = VggNeck(shape, recipe.network.dropout)
        self.classification = nn.Linear(shape.hidden, streams)
        self.detection = nn.Linear(shape.hidden, streams)
        self.refinements = _linear_layers(shape.hidden, class_count + 1, _BRANCHES)
        self.regressions = _linear_layers(shape.hidden, 4 * (class_count + 1), _BRANCHES if mist else 0)
        for layer in (self.classification, self.detection, *self.refinements, *self.regressions):
            nn.init.normal_(layer.weight, std=recipe.network.initial_deviation)
            nn.init.zeros_(layer.bias)
        settings = recipe.drop_block if isinstance(recipe, MistRecipe) else None
        self.drop_block = None if settings is None else ConcreteDropBlock(settings, shape.widths[-1])

    def outputs(self, pooled: Tensor) -> HeadOutputs:
        """Raw outputs, float32, for pooled RoIs (R, widths[-1], 7, 7)."""
        hidden = self.neck(pooled)
        return HeadOutputs(
            self.classification(hidden).float(),
            self.detection(hidden).float(),
            [branch(hidden).float() for branch in self.refinements],
            [branch(hidden).float() for branch in self.regressions],
        )

    def losses(
        self,
        features: Tensor,
        proposals: Sequence[Instances],
        image_labels: Sequence[Tensor],
        *,
        adversarial: bool = False,
    ) -> dict[str, Tensor]:
        """Losses of a batch by name, averaged over its images; computed in float32 whatever the features are.

        Args:
            features: (B, widths[-1], h, w), stride 8.
            proposals: of each image, with `proposal_boxes`, xyxy pixel edges in the view.
            image_labels: of each image, (C,), 1 for its classes.
            adversarial: DropBlock's mask network takes the gradient, and nothing else does. Otherwise it is the other
                way about.
        """
        boxes = [item.proposal_boxes.tensor for item in proposals]
        pooled = pool_rois(features, boxes)
        with self._gradient_for(adversarial=adversarial):
            kept = pooled if self.drop_block is None else self.drop_block(pooled)
            outputs = self.outputs(kept)
        with torch.autocast(features.device.type, enabled=False):
            all_images = zip(_split(outputs, boxes), boxes, image_labels, strict=True)
            return mean_losses([self.image_losses(*image) for image in all_images])

    def image_losses(self, outputs: HeadOutputs, boxes: Tensor, image_labels: Tensor) -> dict[str, Tensor]:
        """Losses of one image by name.

        Args:
            outputs: for its R proposals.
            boxes: float32 (R, 4), xyxy pixel edges.
            image_labels: (C,), 1 for its classes.
        """
        if isinstance(self.recipe, MistRecipe):
            mist = self.recipe.mining
            return mist_losses(
                outputs,
                boxes,
                image_labels,
                share=mist.share,
                iou_threshold=mist.overlap,
                foreground_iou=mist.foreground_iou,
                branch_weights=mist.branch_weights,
            )
        oicr = self.recipe.mining
        return oicr_losses(
            outputs,
            boxes,
            image_labels,
            ratio=oicr.ratio,
            nms_threshold=oicr.nms,
            class_wise=oicr.class_wise,
            foreground_iou=oicr.foreground_iou,
            branch_weights=oicr.branch_weights,
        )

    def scored(
        self, features: Tensor, proposals: Sequence[Instances], sizes: Sequence[tuple[int, int]]
    ) -> list[Scored]:
        """Scores and boxes for each view.

        Args:
            features: (B, widths[-1], h, w), stride 8.
            proposals: of each view, with `proposal_boxes`, xyxy pixel edges.
            sizes: height and width of each view in pixels.
        """
        boxes = [item.proposal_boxes.tensor for item in proposals]
        outputs = _split(self.outputs(pool_rois(features, boxes)), boxes)
        views = zip(outputs, boxes, sizes, strict=True)
        return [self._scored_view(found, own, size) for found, own, size in views]

    def forward(
        self,
        images: ImageList,
        features: Tensor,
        proposals: Sequence[Instances],
        targets: Sequence[Tensor] | None = None,
    ) -> tuple[list[Scored], dict[str, Tensor]]:
        """detectron2's signature: the losses of the batch in training mode, for which `targets` are the image labels;
        else scores and boxes of each view."""
        if self.training:
            if targets is None:
                raise ValueError("targets: expected the image labels of each image, got None")
            return [], self.losses(features, proposals, targets)
        return self.scored(features, proposals, images.image_sizes), {}

    def _scored_view(self, outputs: HeadOutputs, boxes: Tensor, size: tuple[int, int]) -> Scored:
        """The three branches are averaged: scores after the softmax, boxes before decoding."""
        probabilities = torch.stack([logits.softmax(dim=1) for logits in outputs.refinement_logits])
        scores = probabilities.mean(dim=0)[:, 1:]
        if not outputs.deltas:
            return Scored(scores, boxes)
        decoded = decode(torch.stack(list(outputs.deltas)).mean(dim=0), boxes)
        per_class = decoded.view(len(boxes), self.num_classes + 1, 4)[:, 1:]
        return Scored(scores, clip_boxes_to_image(per_class, size))

    @contextmanager
    def _gradient_for(self, *, adversarial: bool) -> Iterator[None]:
        """Within it, either the mask network or everything else takes part as constants."""
        masking = set() if self.drop_block is None else set(self.drop_block.parameters())
        still = [
            item for item in self.parameters() if item.requires_grad and (item in masking) != adversarial
        ]
        for item in still:
            item.requires_grad_(False)
        try:
            yield
        finally:
            for item in still:
                item.requires_grad_(True)


def pool_rois(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Largest feature in each of 7 x 7 cells of every RoI (RoIPool of Fast R-CNN); 0 in a cell outside the map.

    MIST's operator takes inclusive pixel indexes, rounds their eighth to cells and counts both ends in; right and bottom are
    made such indexes here. OICR departs from its publication, whose operator (mmcv's) does not round: a RoI may cover a
    cell less there.

    Args:
        features: (B, C, h, w), stride 8.
        boxes: for each image (R, 4), xyxy pixel edges.

    Returns:
        (sum of all R, C, 7, 7), the images one after the other.
    """
    inclusive = [item - item.new_tensor((0, 0, 1, 1)) for item in boxes]
    # Coordinates would lose whole pixels in float16, and the operator wants one type.
    pooled: Tensor = roi_pool(features.float(), inclusive, POOLED, 1 / STRIDE)
    return pooled.to(features.dtype)


def _linear_layers(inputs: int, outputs: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(inputs, outputs) for _ in range(count))


def _split(outputs: HeadOutputs, boxes: Sequence[Tensor]) -> list[HeadOutputs]:
    """Outputs of a batch, image by image."""
    counts = [len(item) for item in boxes]
    streams = zip(outputs.class_logits.split(counts), outputs.detection_logits.split(counts), strict=True)
    refinements = [logits.split(counts) for logits in outputs.refinement_logits]
    deltas = [values.split(counts) for values in outputs.deltas]
    return [
        HeadOutputs(classes, detections, [part[i] for part in refinements], [part[i] for part in deltas])
        for i, (classes, detections) in enumerate(streams)
    ]
