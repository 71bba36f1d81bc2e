"""Narrow detectors and made-up images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.models.vgg16 import Vgg16Shape, VggNeck
from weaksam_cli.wsod.end_to_end.recipe import (
    DropBlockSettings,
    MistRecipe,
    NetworkSettings,
    OicrRecipe,
    ScheduleSettings,
)

NARROW = Vgg16Shape(widths=(4, 6, 8, 8, 8), hidden=16)
CLASSES = 3


def mist(*, drop_block: DropBlockSettings | None = None, **network: Any) -> MistRecipe:
    return MistRecipe(
        schedule=ScheduleSettings(iterations=2), drop_block=drop_block, network=NetworkSettings(**network)
    )


def oicr(**network: Any) -> OicrRecipe:
    settings = NetworkSettings(**{"ceil_mode": True, "last_relu": True, "frozen_blocks": 0, **network})
    return OicrRecipe(schedule=ScheduleSettings(iterations=2), network=settings)


def enliven(neck: VggNeck) -> None:
    """Weights that pass on what they see, as trained ones do: a fresh neck's outputs hardly differ between RoIs."""
    for layer in (neck.fc6, neck.fc7):
        nn.init.kaiming_normal_(layer.weight)


def boxes_in(n: int, height: int, width: int) -> Tensor:
    """`n` boxes inside the image, xyxy, sides of 20 to 50 where they fit."""
    generator = torch.Generator().manual_seed(n)
    limits = torch.tensor([width, height], dtype=torch.float32)
    low = torch.rand(n, 2, generator=generator) * (limits - 24)
    high = torch.minimum(low + 20 + 30 * torch.rand(n, 2, generator=generator), limits)
    return torch.cat([low, high], dim=1)


def sample(n: int, height: int = 64, width: int = 96, present: tuple[int, ...] = (1,)) -> dict[str, Any]:
    """An image with `n` proposals, as the detector takes it."""
    import_detectron2()
    from detectron2.structures import Boxes, Instances

    proposals = Instances((height, width))
    proposals.proposal_boxes = Boxes(boxes_in(n, height, width))
    labels = torch.zeros(CLASSES)
    labels[list(present)] = 1
    generator = torch.Generator().manual_seed(1000 * height + width + n)
    image = torch.randn(3, height, width, generator=generator) * 50
    return {"image": image, "proposals": proposals, "image_labels": labels}
