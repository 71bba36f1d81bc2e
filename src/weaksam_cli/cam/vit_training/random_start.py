"""A random start from which a transformer learns from few images (arXiv 2305.09828, "Mimetic initialization").

Attention begins where trained networks end: a token looks at tokens like itself, and takes away what they have in common.
With DeiT's own start every token sees the mean of all, and patches learn what the whole image shows, not what they show.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from weaksam_cli.models.vit.embedding import Lite0Embedding
from weaksam_cli.models.vit.network import Attention, ClassTokenVit

_LIKENESS: Final = 0.7
"""The paper's strength of both noise and identity in the product of query and key weights."""
_REMOVAL: Final = 0.4
"""The paper's strength of both noise and minus identity in the product of value and output weights."""


@torch.no_grad()
def start_from_random(network: ClassTokenVit) -> None:
    """Give attentions their start, all patches the position 0 and a hybrid's convolutions their ImageNet weights, in place.

    Torch's global random numbers decide.
    """
    network.pos_embed[:, network.shape.n_classes :] = 0
    for module in network.modules():
        if isinstance(module, Attention):
            _start_attention(module)
        if isinstance(module, Lite0Embedding):
            module.load_published()


def _start_attention(attention: Attention) -> None:
    width = attention.proj.out_features
    channels = width // attention.heads
    query, key, value = attention.qkv.weight.view(3, width, width)
    for head in range(attention.heads):
        rows = slice(head * channels, (head + 1) * channels)
        left, right = _factors(_LIKENESS * (_noise(width) + torch.eye(width)), channels)
        query[rows], key[rows] = left.T, right
    left, right = _factors(_REMOVAL * (_noise(width) - torch.eye(width)), width)
    attention.proj.weight.copy_(left)
    value.copy_(right)


def _noise(width: int) -> Tensor:
    """(width, width), rows of unit length in the mean."""
    return torch.randn(width, width) / width**0.5


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(n, rank) and (rank, n), equally large, whose product comes nearest to an (n, n) matrix."""
    left, sizes, right = torch.linalg.svd(product)
    roots = sizes[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]
