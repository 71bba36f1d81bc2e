"""How images become patch tokens: by DeiT's one linear layer, or from the features of a pretrained network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import torch
from torch import Tensor, nn

from weaksam_cli.models.lite0 import CHANNELS_OF_STRIDE, STAGES_OF_STRIDE, Lite0, load_lite0

EmbeddingName = Literal["linear", "lite0"]
STEM_PATCH: Final = 16
"""Side in pixels of a cell of the stem's map."""
_COLOURS: Final = 3
_CHANNELS: Final = CHANNELS_OF_STRIDE[STEM_PATCH]
_PROJECTION: Final = "patch_embed.proj.weight"


class LinearEmbedding(nn.Module):
    """DeiT's: pixels of a patch to a token; rows and columns beyond the last whole patch are left out.

    Args:
        width: of a token.
        patch: side of a patch in pixels.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(_COLOURS, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, width, H // patch, W // patch)."""
        embedded: Tensor = self.proj(images)
        return embedded


class Lite0Embedding(nn.Module):
    """A hybrid's: EfficientNet-Lite0 as far as stride 16, then a linear layer a cell (arXiv 2010.11929 §3.1).

    The convolutions keep their weights: they stay in evaluation mode and get no gradient.

    Args:
        width: of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = Lite0(STAGES_OF_STRIDE[STEM_PATCH]).requires_grad_(False)
        self.proj = nn.Conv2d(_CHANNELS, width, 1)

    def load_published(self) -> None:
        """Give the convolutions their ImageNet weights, in place.

        Raises:
            UserError: see `load_lite0`.
        """
        published = load_lite0().state_dict()
        self.stem.load_state_dict({name: published[name] for name in self.stem.state_dict()})

    def train(self, mode: bool = True) -> Lite0Embedding:
        """The convolutions' statistics stay, too: they have no training mode."""
        super().train(mode)
        self.stem.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, width, H // 16, W // 16)."""
        height, width = (side // STEM_PATCH * STEM_PATCH for side in images.shape[-2:])
        with torch.no_grad():
            cells = self.stem.trunk(images[..., :height, :width])
        embedded: Tensor = self.proj(cells.contiguous())
        return embedded


def make_embedding(name: EmbeddingName, width: int, patch: int) -> LinearEmbedding | Lite0Embedding:
    """The embedding of that name, with random weights.

    Raises:
        ValueError: lite0 has patches of 16 pixels, no others.
    """
    if name == "linear":
        return LinearEmbedding(width, patch)
    if patch != STEM_PATCH:
        raise ValueError(f"lite0 makes patches of {STEM_PATCH} pixels, not {patch}")
    return Lite0Embedding(width)


def embedding_of_state(state: Mapping[str, Tensor]) -> tuple[EmbeddingName, int]:
    """Which embedding a state dict is of, and the side of its patches.

    Raises:
        KeyError: no embedding is in it.
    """
    projection = state[_PROJECTION]
    if projection.shape[1] == _COLOURS:
        return "linear", projection.shape[-1]
    return "lite0", STEM_PATCH
