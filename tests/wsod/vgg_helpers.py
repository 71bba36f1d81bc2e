"""Narrow detectors on VGG16 and made-up images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from weaksam_cli.wsod.detector import Sample
from weaksam_cli.wsod.method import Method, Regions
from weaksam_cli.wsod.mist import DropBlockSettings, Mist
from weaksam_cli.wsod.oicr import Oicr
from weaksam_cli.wsod.settings import HeadSettings
from weaksam_cli.wsod.vgg16 import Vgg16
from weaksam_cli.wsod.vgg_detector import VggDetector
from weaksam_cli.wsod.wsddn import Wsddn

NARROW: dict[str, Any] = {"name": "vgg16", "widths": (4, 6, 8, 8, 8), "hidden": 16}
CLASSES = 3

HEADS = HeadSettings(initial_deviation=0.02)
"""Outputs that differ from proposal to proposal."""
MIST = Mist(heads=HEADS, drop_block=None)
DROPPING = Mist(heads=HEADS, drop_block=DropBlockSettings(gamma=0.2, temperature=1.0))
OICR = Oicr(heads=HEADS)
WSDDN = Wsddn(heads=HEADS)


def network(method: Method, **changes: Any) -> Vgg16:
    """As the method's published training shapes it, narrow."""
    ceil = not isinstance(method, Mist)
    shape = {"ceil_mode": ceil, "last_relu": ceil, "frozen_blocks": 0 if ceil else 2}
    return Vgg16(**{**NARROW, **shape, **changes})


def detector_of(method: Method, **changes: Any) -> VggDetector:
    """With a neck that passes on what it sees, as trained ones do: a fresh one's outputs hardly differ between RoIs."""
    torch.manual_seed(0)
    detector = VggDetector(method, network(method, **changes), CLASSES)
    for layer in (detector.neck.get_submodule("fc6"), detector.neck.get_submodule("fc7")):
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_normal_(layer.weight)
    return detector


def boxes_in(n: int, height: int, width: int) -> Tensor:
    """`n` boxes inside the image, xyxy, sides of 20 to 50 where they fit."""
    generator = torch.Generator().manual_seed(n)
    limits = torch.tensor([width, height], dtype=torch.float32)
    low = torch.rand(n, 2, generator=generator) * (limits - 24)
    high = torch.minimum(low + 20 + 30 * torch.rand(n, 2, generator=generator), limits)
    return torch.cat([low, high], dim=1)


def sample(n: int, height: int = 64, width: int = 96, present: tuple[int, ...] = (1,)) -> Sample:
    """An image with `n` proposals, as the detector takes it."""
    labels = torch.zeros(CLASSES)
    labels[list(present)] = 1
    generator = torch.Generator().manual_seed(1000 * height + width + n)
    image = torch.randn(3, height, width, generator=generator) * 50
    return Sample(image, Regions(boxes_in(n, height, width), labels))
