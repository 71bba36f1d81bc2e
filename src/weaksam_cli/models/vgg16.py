"""VGG16 as weakly supervised detectors use it: stride 8, the last block dilated, two full layers over pooled RoIs.

Spec 04 §A.1 and §B.1. Tensors keep torchvision's names `features.N`, so ImageNet weights load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import mismatches, read_checkpoint, shapes_of

ChannelOrder = Literal["BGR", "RGB"]

STRIDE: Final = 8
"""Pixels of the image a cell of the map."""

POOLED: Final = 7
"""Cells a side of a pooled RoI."""

_LAYERS: Final = (2, 2, 3, 3, 3)
"""Convolutions of each block."""

_POOLED_BLOCKS: Final = 3
"""The first blocks that end in pooling."""

_NECK_DEVIATION: Final = 0.01

_REMEDY: Final = "Use VGG16's ImageNet weights: torchvision's vgg16-397923af.pth or vgg16-00b39a1b.pth"


class DilatedVgg16(nn.Module):
    """The convolutions: pooling after the first three blocks, none after that, the fifth block dilated by 2.

    Args:
        widths: channels of the five blocks, VGG16's own: 64, 128, 256, 512, 512.
        ceil_mode: pooling keeps incomplete windows at the right and bottom.
        last_relu: after conv5_3.
        frozen_blocks: so many blocks, from the image on, take no gradient.
    """

    def __init__(
        self, widths: Sequence[int], *, ceil_mode: bool, last_relu: bool, frozen_blocks: int
    ) -> None:
        super().__init__()
        blocks = [_block(widths, index, ceil_mode) for index in range(len(_LAYERS))]
        for block in blocks[:frozen_blocks]:
            for layer in block:
                layer.requires_grad_(False)
        layers = [layer for block in blocks for layer in block][:-1]
        self.features = nn.Sequential(*(layers if last_relu else layers[:-1]))

    def forward(self, images: Tensor) -> Tensor:
        """Map of normalised images.

        Args:
            images: float (B, 3, H, W), no side below the stride.

        Returns:
            (B, widths[-1], h, w); h is H / 8, rounded at each of the three poolings.
        """
        return self.maps(images)[-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the five blocks, before they are pooled, with strides of 1, 2, 4, 8 and 8; see `forward`."""
        found: list[Tensor] = []
        layers = list(self.features)
        for count in _LAYERS:
            block, after, layers = (
                layers[: 2 * count],
                layers[2 * count : 2 * count + 1],
                layers[2 * count + 1 :],
            )
            for layer in block:
                images = layer(images)
            found.append(images)
            for layer in after:
                images = layer(images)
        return found


class VggNeck(nn.Module):
    """fc6 and fc7 of VGG16, each with ReLU and dropout.

    Args:
        channels: of the map.
        hidden: outputs of each of the two layers; VGG16's have 4096.
        dropout: share of the outputs that are zeroed in training.
    """

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * POOLED**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.dropout = dropout
        for layer in (self.fc6, self.fc7):
            nn.init.normal_(layer.weight, std=_NECK_DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Features (R, hidden) of pooled RoIs (R, channels, 7, 7)."""
        hidden = pooled.flatten(1)
        for layer in (self.fc6, self.fc7):
            hidden = F.dropout(F.relu(layer(hidden)), self.dropout, self.training)
        return hidden


def load_vgg16(backbone: DilatedVgg16, neck: VggNeck, path: Path) -> ChannelOrder:
    """Fill both with VGG16's ImageNet weights; the last layer of 1000 classes is left out.

    The full layers are `classifier.0` and `.3` in torchvision's files, `classifier.1` and `.4` in vgg16-00b39a1b.pth.

    Args:
        backbone: changed in place.
        neck: changed in place.
        path: `.pth` (nothing in it is executed) or `.safetensors`.

    Returns:
        The order of the channels that the file was trained with: torchvision's RGB, or Caffe's BGR.

    Raises:
        UserError: the file is missing, damaged or foreign, or lacks a tensor or has it in another shape.
    """
    state = read_checkpoint(path, remedy=_REMEDY).tensors
    order: ChannelOrder = "RGB" if "classifier.0.weight" in state else "BGR"
    # ReLU and dropout count among the classifier's layers.
    numbers = {"fc6": 0, "fc7": 3} if order == "RGB" else {"fc6": 1, "fc7": 4}
    names = {own: f"classifier.{numbers[own[:3]]}{own[3:]}" for own in shapes_of(neck)}
    wanted = shapes_of(backbone) | {names[own]: shape for own, shape in shapes_of(neck).items()}
    unfit = mismatches(wanted, state, more_allowed=True)
    if unfit:
        raise UserError(f"does not fit VGG16: {'; '.join(unfit)}", where=str(path), remedy=_REMEDY)
    backbone.load_state_dict({name: state[name] for name in shapes_of(backbone)})
    neck.load_state_dict({own: state[name] for own, name in names.items()})
    return order


def _block(widths: Sequence[int], index: int, ceil_mode: bool) -> list[nn.Module]:
    """Convolutions with ReLU, and one layer after them so that the numbers stay those of torchvision."""
    dilation = 2 if index == len(_LAYERS) - 1 else 1
    incoming = widths[index - 1] if index else 3
    layers: list[nn.Module] = []
    for _ in range(_LAYERS[index]):
        layer = nn.Conv2d(incoming, widths[index], 3, padding=dilation, dilation=dilation)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        layers += [layer, nn.ReLU(inplace=True)]
        incoming = widths[index]
    pooled = index < _POOLED_BLOCKS
    return [*layers, nn.MaxPool2d(2, ceil_mode=ceil_mode) if pooled else nn.Identity()]
