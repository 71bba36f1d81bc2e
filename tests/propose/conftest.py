"""A small SAM of random weights, built from the classes of the published package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

IMAGE_SIZE = 128
PATCH = 16
WIDTH = 32


def build_tiny_sam(seed: int = 0, **shape: Any) -> Any:
    """`shape` changes arguments of the image encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(shape)


def _build(shape: dict[str, Any]) -> Any:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    encoder = {
        "depth": 2,
        "embed_dim": 24,
        "img_size": IMAGE_SIZE,
        "mlp_ratio": 2,
        "norm_layer": partial(torch.nn.LayerNorm, eps=1e-6),
        "num_heads": 2,
        "patch_size": PATCH,
        "qkv_bias": True,
        "use_rel_pos": True,
        "global_attn_indexes": (1,),
        "window_size": 3,
        "out_chans": WIDTH,
    } | shape
    embedding = IMAGE_SIZE // PATCH
    sam = Sam(
        image_encoder=ImageEncoderViT(**encoder),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(embedding, embedding),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=4,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=48, num_heads=2),
            transformer_dim=WIDTH,
            iou_head_depth=2,
            iou_head_hidden_dim=16,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    with torch.no_grad():
        for parameter in sam.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape) * (1.5 / fan_in**0.5))
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
        for head in sam.mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 6
        matrix = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        matrix.copy_(torch.randn(matrix.shape))
    return sam.eval()


@pytest.fixture(scope="session")
def tiny_sam() -> Any:
    return build_tiny_sam()


@pytest.fixture(scope="session")
def tiny_sam_factory() -> Callable[[int], Any]:
    return build_tiny_sam


@pytest.fixture(scope="session")
def sample() -> Callable[[int, int], NDArray[np.uint8]]:
    """A function (height, width) -> uint8 RGB image with some structure."""

    def make(height: int, width: int) -> NDArray[np.uint8]:
        generator = np.random.default_rng(height * 10_000 + width)
        image = generator.integers(0, 256, (height, width, 3))
        image[height // 4 : height // 2 + 1, width // 3 :] = (200, 40, 90)
        image[height // 2 :, : width // 2] //= 4
        return image.astype(np.uint8)

    return make
