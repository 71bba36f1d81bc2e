"""A tiny random CLIP of the library's own classes, in the key layout of the official file."""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

LAYERS = 3
WIDTH = 128
PATCH = 16


def tiny_clip(seed: int = 0) -> Any:
    """Two heads, three blocks, 2 x 2 patches of 16 pixels, CLIP's vocabulary; numbers that fit in float16."""
    torch.manual_seed(seed)
    network = CLIP(
        32,
        CLIPVisionCfg(layers=LAYERS, width=WIDTH, head_width=64, patch_size=PATCH, image_size=2 * PATCH),
        CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=1),
        quick_gelu=True,
    )
    for parameter in network.parameters():
        # Random weights of the usual size give attention that is all but even, and texts that are all but equal.
        nn.init.normal_(parameter, std=0.25 if parameter.ndim > 1 else 0.5)
        parameter.data = parameter.data.half().float()
    network.logit_scale.data.fill_(3.0)
    return network.requires_grad_(False).eval()


def official_state(seed: int = 0) -> dict[str, Tensor]:
    """Its state dict as OpenAI publishes it: weights in float16, and three numbers beside them."""
    state = {key: value.half() for key, value in tiny_clip(seed).state_dict().items()}
    numbers = {"input_resolution": 2 * PATCH, "context_length": 77, "vocab_size": 49408}
    return state | {key: torch.tensor(value) for key, value in numbers.items()}
