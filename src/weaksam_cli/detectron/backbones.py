"""Backbones of detectron2 with weights of ours: EfficientNet-Lite and ResNet-50, alone or below a feature pyramid.

Importing this module registers `build_weaksam_{lite0,resnet}_backbone`, whose maps `MODEL.RESNETS.OUT_FEATURES` names, and
`build_weaksam_{lite0,lite2,resnet}_fpn_backbone`, which read `MODEL.FPN.*`. All read
`MODEL.BACKBONE.{WEIGHTS,PIXELS,FREEZE_AT,CONTEXT}`.

Batch normalisation of EfficientNet-Lite is frozen: its statistics and affine terms are constants that scale the
convolution's weights at each call. That equals a frozen normalisation after the convolution and saves one pass over
every feature map, which on a processor is a good part of the time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from timm.layers.padding import pad_same
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.config import CfgNode  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone  # noqa: E402
from detectron2.modeling.backbone import build_resnet_backbone  # noqa: E402
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, build_resnet_fpn_backbone  # noqa: E402

from weaksam_cli.errors import UserError  # noqa: E402
from weaksam_cli.models.checkpoints import (  # noqa: E402
    Checkpoint,
    mismatches,
    read_checkpoint,
    shapes_of,
)
from weaksam_cli.models.lite import Lite, LiteName, channels_of_stride, load_lite  # noqa: E402

# Output name -> (index of the last timm stage below it, stride).
_OUTPUTS = {"c2": (1, 4), "c3": (2, 8), "c4": (4, 16), "c5": (6, 32), "head": (7, 32)}
_PREFIX: Final = "bottom_up."
_REMEDY: Final = "Use detectron2's R-50.pkl or a torchvision ResNet-50"


class FrozenNormConv2d(nn.Module):
    """A convolution with TensorFlow's `same` padding, followed by a frozen batch normalisation.

    Attributes:
        weight: the convolution's own weight (trainable), not multiplied by the normalisation.
        scale, shift: float32 (channels,) buffers, the normalisation as `x * scale + shift`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, convolution: nn.Conv2d, norm: Any, *, activate: bool) -> None:
        super().__init__()
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.weight = nn.Parameter(convolution.weight.detach().clone())
        self.register_buffer("scale", factor.detach().clone())
        self.register_buffer("shift", (norm.bias - norm.running_mean * factor).detach().clone())
        self.stride = int(convolution.stride[0])
        self.groups = convolution.groups
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, channels, ceil(h / stride), ceil(w / stride))."""
        weight = self.weight * self.scale.view(-1, 1, 1, 1)
        padding = weight.shape[-1] // 2
        if self.stride > 1:
            x, padding = pad_same(x, [*weight.shape[-2:]], [self.stride] * 2), 0
        out = F.conv2d(x, weight, self.shift, self.stride, padding, 1, self.groups)
        return F.relu6(out, inplace=True) if self.activate else out


class _Block(nn.Module):
    """One (inverted) residual block: its convolutions in order, with the input added where timm adds it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        convolutions = [m for name, m in block.named_children() if name.startswith("conv")]
        norms = [m for name, m in block.named_children() if name.startswith("bn")]
        self.layers = nn.Sequential(
            *(
                FrozenNormConv2d(cast(nn.Conv2d, conv), norm, activate=conv is not convolutions[-1])
                for conv, norm in zip(convolutions, norms, strict=True)
            )
        )
        self.has_skip = bool(block.has_skip)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out + x if self.has_skip else out


class LiteBackbone(Backbone):
    """EfficientNet-Lite without its classifier; maps c2..c5 at strides 4, 8, 16, 32.

    A further map, `head`, has the 1280 channels at stride 32 that the classifier averages.

    Args:
        network: a timm `tf_efficientnet_lite0` or `..2`, whose weights are copied.
        out_features: which of c2..c5 and head are returned.
        freeze_at: 0 trains everything; 1 freezes the stem, k + 1 also the first k of the seven stages.
    """

    def __init__(self, network: nn.Module, out_features: tuple[str, ...], freeze_at: int = 0) -> None:
        super().__init__()
        timm_network: Any = network
        self.stem = FrozenNormConv2d(timm_network.conv_stem, timm_network.bn1, activate=True)
        self.head: FrozenNormConv2d | None = None
        if "head" in out_features:
            self.head = FrozenNormConv2d(timm_network.conv_head, timm_network.bn2, activate=True)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(block) for block in stage)) for stage in timm_network.blocks
        )
        self._out_features = list(out_features)
        self._out_feature_strides = {name: _OUTPUTS[name][1] for name in out_features}
        channels = channels_of_stride(timm_network)
        maps = {name: channels[stride] for name, (_, stride) in _OUTPUTS.items()}
        maps["head"] = timm_network.conv_head.out_channels
        self._out_feature_channels = {name: maps[name] for name in out_features}
        self._names = {_OUTPUTS[name][0]: name for name in out_features}
        for part in [self.stem, *self.stages][:freeze_at]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by name for images (n, 3, h, w), RGB with ImageNet's normalisation."""
        outputs = {}
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._names:
                outputs[self._names[index]] = x
        if self.head is not None:
            outputs["head"] = self.head(x)
        return outputs


def load_network(name: LiteName, weights: str) -> nn.Module:
    """timm's EfficientNet-Lite: `weights` is "imagenet" (the installed package), "random" or a file.

    Raises:
        UserError: when the file is missing or is not the published one.
    """
    if weights == "random":
        return Lite(name).network
    return load_lite(name, None if weights == "imagenet" else Path(weights)).network


class _Maps(Backbone):
    """Stands where detectron2's pyramid expects its network, and hands on maps that are computed already."""

    def __init__(self, shapes: dict[str, ShapeSpec]) -> None:
        super().__init__()
        self._shapes = shapes

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return maps


class LitePyramid(Backbone):
    """EfficientNet-Lite below detectron2's feature pyramid: maps p2 or p3 to p6, and `head` where it is asked for."""

    def __init__(
        self, bottom_up: LiteBackbone, in_features: list[str], channels: int, norm: str, fuse: str
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.pyramid = FPN(
            _Maps(bottom_up.output_shape()), in_features, channels, norm, LastLevelMaxPool(), fuse
        )
        self._shapes = dict(self.pyramid.output_shape())
        if bottom_up.head is not None:
            self._shapes["head"] = bottom_up.output_shape()["head"]

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of this."""
        return int(self.pyramid.size_divisibility)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return self._shapes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by name for images (n, 3, h, w), h and w multiples of `size_divisibility`."""
        maps = self.bottom_up(x)
        outputs: dict[str, Tensor] = self.pyramid(maps)
        return outputs | {"head": maps["head"]} if "head" in maps else outputs


def load_resnet50(backbone: nn.Module, weights: str, pixels: str) -> None:
    """Load ImageNet weights into a ResNet-50: detectron2's `R-50.pkl` (MSRA, BGR), torchvision's, or detectron2's own names.

    Args:
        backbone: detectron2's ResNet-50, without a feature pyramid.
        weights: path of the file.
        pixels: the recipe's `backbone.pixels`; it has to fit the file's layout.

    Raises:
        UserError: the file is missing, damaged or not a ResNet-50, or `pixels` does not fit it.
    """
    path = Path(weights)
    if not path.is_file():
        raise UserError(
            "no such weights file",
            where=str(path),
            remedy="Set backbone.weights to detectron2's R-50.pkl or a torchvision ResNet-50, or to `random` "
            "with backbone.norm batch and backbone.freeze_at 0",
        )
    checkpoint = read_checkpoint(path, remedy=_REMEDY)
    values = checkpoint.tensors
    if "layer1.0.conv1.weight" in values:
        _expect_pixels(path, pixels, "imagenet_rgb", "torchvision")
        values = {torchvision_key(name): value for name, value in values.items()}
    elif path.suffix == ".pkl":
        _expect_pixels(path, pixels, "msra_bgr", "detectron2's R-50.pkl")
        values = _align(backbone, checkpoint)
    # Files of torch before 0.4.1 do not count batches.
    shapes = shapes_of(backbone)
    wanted = {name: shape for name, shape in shapes.items() if "num_batches" not in name}
    unfit = mismatches(wanted, values, more_allowed=True)
    if unfit:
        raise UserError(f"does not fit ResNet-50: {'; '.join(unfit)}", where=str(path), remedy=_REMEDY)
    backbone.load_state_dict({name: value for name, value in values.items() if name in shapes}, strict=False)


def torchvision_key(name: str) -> str:
    """torchvision's name of a ResNet tensor as detectron2 spells it: `layer1.0.bn2.bias` is `res2.0.conv2.norm.bias`."""
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def _align(backbone: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """detectron2's own matching of names by their endings, which R-50.pkl asks for."""
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    caffe2 = checkpoint.table != "model" or checkpoint.beside.get("__author__") == "Caffe2"
    found = {name: value for name, value in checkpoint.tensors.items() if not name.endswith("_momentum")}
    wanted = {f"{_PREFIX}{name}": value for name, value in backbone.state_dict().items()}
    aligned = align_and_update_state_dicts(wanted, found, c2_conversion=caffe2)
    matched = {name.removeprefix(_PREFIX): value for name, value in aligned.items()}
    # A frozen normalisation of Caffe2 comes as weight and bias alone; its statistics stay those of the identity.
    for name, value in backbone.state_dict().items():
        if "running_" in name:
            matched.setdefault(name, value)
    return matched


def _expect_pixels(path: Path, got: str, wanted: str, layout: str) -> None:
    if got != wanted:
        raise UserError(
            f"the file has the layout of {layout}, whose pixels are {wanted}",
            where=f"backbone.pixels = {got} with {path}",
            remedy=f"Use --set backbone.pixels={wanted}",
        )


def _lite(name: LiteName, cfg: CfgNode, features: Sequence[str]) -> LiteBackbone:
    given = cfg.MODEL.BACKBONE
    return LiteBackbone(load_network(name, given.WEIGHTS), tuple(features), given.FREEZE_AT)


def _lite_pyramid(name: LiteName, cfg: CfgNode) -> LitePyramid:
    """With a map beside the pyramid where `CONTEXT` names one."""
    fpn, context = cfg.MODEL.FPN, cfg.MODEL.BACKBONE.CONTEXT
    bottom_up = _lite(name, cfg, (*fpn.IN_FEATURES, *([context] if context else [])))
    return LitePyramid(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, fpn.FUSE_TYPE)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_weaksam_lite0_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LitePyramid:
    """EfficientNet-Lite0 below a feature pyramid."""
    return _lite_pyramid("lite0", cfg)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_weaksam_lite2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LitePyramid:
    """EfficientNet-Lite2 below a feature pyramid."""
    return _lite_pyramid("lite2", cfg)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_weaksam_lite0_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LiteBackbone:
    """EfficientNet-Lite0 without a pyramid."""
    return _lite("lite0", cfg, cfg.MODEL.RESNETS.OUT_FEATURES)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_weaksam_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """detectron2's ResNet, without a pyramid, with the weights of `load_resnet50`, unless they are to be random."""
    backbone: Backbone = build_resnet_backbone(cfg, input_shape)
    if cfg.MODEL.BACKBONE.WEIGHTS != "random":
        load_resnet50(backbone, cfg.MODEL.BACKBONE.WEIGHTS, cfg.MODEL.BACKBONE.PIXELS)
    return backbone


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]
def build_weaksam_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """detectron2's ResNet with the weights of `load_resnet50`, unless they are to be random."""
    backbone: Backbone = build_resnet_fpn_backbone(cfg, input_shape)
    if cfg.MODEL.BACKBONE.WEIGHTS != "random":
        load_resnet50(backbone.bottom_up, cfg.MODEL.BACKBONE.WEIGHTS, cfg.MODEL.BACKBONE.PIXELS)
    return backbone


def add_backbone_config(cfg: CfgNode) -> None:
    """Add what these backbones read to a detectron2 configuration."""
    cfg.MODEL.BACKBONE.WEIGHTS = "random"
    cfg.MODEL.BACKBONE.PIXELS = "imagenet_rgb"
    cfg.MODEL.BACKBONE.CONTEXT = ""
