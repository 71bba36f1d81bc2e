"""MIST and OICR on VGG16 as one detectron2 model, from images and proposals to losses or scores (spec 04 §A, §B).

An image comes as detectron2's dict: `image` float32 (3, h, w), normalised; `proposals` Instances with `proposal_boxes`,
xyxy pixel edges in that image; in training `image_labels` float (C,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.errors import UserError
from weaksam_cli.models.vgg16 import VGG16, DilatedVgg16, Vgg16Shape, load_vgg16
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe
from weaksam_cli.wsod.end_to_end.roi_heads import Scored, VggWeakRoiHeads

import_detectron2()

from detectron2.modeling import META_ARCH_REGISTRY  # noqa: E402
from detectron2.structures import ImageList, Instances  # noqa: E402

_PADDED_TO: Final = 32
"""Sides of what the network sees are multiples of so many pixels, also of one image alone (spec 04 §A.5)."""


@META_ARCH_REGISTRY.register()
class VggWeakDetector(nn.Module):
    """VGG16 with the heads of MIST or OICR, with fresh weights (seed torch before).

    Args:
        recipe: what is trained.
        class_count: C.
        shape: widths of VGG16.
    """

    def __init__(self, recipe: MistRecipe | OicrRecipe, class_count: int, shape: Vgg16Shape = VGG16) -> None:
        super().__init__()
        network = recipe.network
        self.backbone = DilatedVgg16(
            shape,
            ceil_mode=network.ceil_mode,
            last_relu=network.last_relu,
            frozen_blocks=network.frozen_blocks,
        )
        self.roi_heads = VggWeakRoiHeads(recipe, class_count, shape)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.roi_heads.classification.weight.device

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[Scored]:
        """Losses by name in training mode, else scores and boxes of each view (without gradient).

        DropBlock's mask network takes no gradient from these losses.
        """
        images, proposals = self._images(batched_inputs), self._proposals(batched_inputs)
        if self.training:
            features = self.backbone(images.tensor)
            losses: dict[str, Tensor] = self.roi_heads(
                images, features, proposals, self._labels(batched_inputs)
            )[1]
            return losses
        with torch.no_grad():
            scored: list[Scored] = self.roi_heads(images, self.backbone(images.tensor), proposals)[0]
            return scored

    def adversarial_loss(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Tensor:
        """What DropBlock's mask network goes down: the negative, weighted sum of the losses. Only it takes gradient.

        Raises:
            ValueError: the model has no DropBlock, or is in evaluation mode.
        """
        drop_block = self.roi_heads.drop_block
        if drop_block is None or not self.training:
            raise ValueError("adversarial_loss: expected a model with DropBlock in training mode")
        with torch.no_grad():
            features = self.backbone(self._images(batched_inputs).tensor)
        losses = self.roi_heads.losses(
            features, self._proposals(batched_inputs), self._labels(batched_inputs), adversarial=True
        )
        return -drop_block.settings.loss_weight * torch.stack(list(losses.values())).sum()

    def _images(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        """The images as one tensor; zeros fill up the right and bottom."""
        images = [item["image"].to(self.device) for item in batched_inputs]
        return ImageList.from_tensors(images, size_divisibility=_PADDED_TO)

    def _proposals(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[Instances]:
        return [item["proposals"].to(self.device) for item in batched_inputs]

    def _labels(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        return [item["image_labels"].to(self.device) for item in batched_inputs]


def build_vgg_detector(
    recipe: MistRecipe | OicrRecipe,
    class_count: int,
    weights: Path | None,
    shape: Vgg16Shape = VGG16,
) -> VggWeakDetector:
    """The detector with VGG16's ImageNet weights and fresh heads (seed torch before).

    Args:
        recipe: what is trained.
        class_count: C.
        weights: file of VGG16's ImageNet weights; None leaves all weights fresh.
        shape: widths of VGG16; the file has to fit.

    Raises:
        UserError: the file is missing, damaged or does not fit, or was trained with another order of the channels.
    """
    detector = VggWeakDetector(recipe, class_count, shape)
    if weights is not None:
        told = load_vgg16(detector.backbone, detector.roi_heads.neck, weights)
        order = told if recipe.weights_order == "auto" else recipe.weights_order
        if order != recipe.pixels.order:
            raise UserError(
                f"the file was trained with {order} pixels",
                where=f"pixels.order = {recipe.pixels.order} with {weights}",
                remedy=f"Use --set pixels.order={order}, with its mean and deviation: oicr-vgg16 has Caffe's for BGR, "
                f"oicr-vgg16-coco14 torchvision's for RGB; or --set weights_order={recipe.pixels.order}, where the "
                "layout of the file misleads",
            )
    return detector
