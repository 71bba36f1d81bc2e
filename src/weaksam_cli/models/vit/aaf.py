"""WeakTr's adaptive attention fusion: a gate for every head of every layer (spec 01 §a.2, §a.4).

Gates are numbered head * depth + layer. Two variants are published under different names: v1 looks at the attentions
themselves, v3 at the outputs of the attention branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor, nn

from weaksam_cli.models.vit.network import VitShape

Pool = Literal["avg", "max"]
Variant = Literal["v1", "v3"]
PREFIX: Final = "adaptive_attention_fusion."
_FIRST_LAYER: Final[Mapping[Variant, str]] = {
    "v1": f"{PREFIX}fc.0.weight",
    "v3": f"{PREFIX}attn_head_ffn.0.weight",
}
_FEATURE_LAYER: Final = f"{PREFIX}attn_feat_ffn.0.weight"


@dataclass(frozen=True)
class FusionShape:
    """The numbers that make a fusion.

    Attributes:
        variant: v1 or v3.
        channels: heads * depth.
        hidden: width of the layer between; published as channels // reduction.
        head_width: channels of a head (v3).
        feature_hidden: width of the layer between those channels and one number (v3).
    """

    variant: Variant
    channels: int
    hidden: int
    head_width: int = 0
    feature_hidden: int = 0

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> FusionShape | None:
        """The variant and the numbers that a state dict tells; None when it holds no fusion."""
        for variant, key in _FIRST_LAYER.items():
            if key not in state:
                continue
            hidden, channels = state[key].shape
            if variant == "v1":
                return cls(variant, channels, hidden)
            feature_hidden, head_width = state[_FEATURE_LAYER].shape
            return cls(variant, channels, hidden, head_width, feature_hidden)
        return None

    @classmethod
    def published(cls, variant: Variant, shape: VitShape, reduction: int) -> FusionShape:
        """The numbers for a network from the published command-line option `--reduction`."""
        channels, head_width = shape.heads * shape.depth, shape.width // shape.heads
        hidden = channels // reduction
        if variant == "v1":
            return cls(variant, channels, hidden)
        return cls(variant, channels, hidden, head_width, max(1, head_width // reduction))


def _gate_layers(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, hidden, bias=False),
        nn.ReLU(),
        nn.Linear(hidden, channels, bias=False),
        nn.Sigmoid(),
    )


class FusionV1(nn.Module):
    """Gates from the attentions, pooled over a whole matrix (the code that is vendored in WeakSAM).

    The mean of a matrix whose rows sum to 1 is 1 / N whatever the image shows, so with average pooling the gates depend on
    the number of tokens alone and are known before the network runs.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.fc = _gate_layers(shape.channels, shape.hidden)

    def gates(self, pooled: Tensor) -> Tensor:
        """Gates (B, channels) in (0, 1) from pooled attentions (B, channels)."""
        found: Tensor = self.fc(pooled)
        return found

    def gates_of_average(self, n_tokens: int) -> Tensor:
        """Gates (1, channels) of average pooling over `n_tokens` tokens."""
        first = next(self.fc.parameters())
        return self.gates(first.new_full((1, first.shape[1]), 1 / n_tokens))


class FusionV3(nn.Module):
    """Gates from the outputs of the attention branches, pooled over the tokens (WeakTr's own repository)."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.attn_head_ffn = _gate_layers(shape.channels, shape.hidden)
        self.attn_feat_ffn = nn.Sequential(
            nn.Linear(shape.head_width, shape.feature_hidden), nn.Linear(shape.feature_hidden, 1)
        )

    def gates(self, pooled: Tensor) -> Tensor:
        """Gates (B, channels) in (0, 1).

        Args:
            pooled: (depth, B, width), branch outputs pooled over the tokens. The width is read as (head width, heads), the
                head last, as published, though the network's own heads lie the other way round.
        """
        depth, batch, _ = pooled.shape
        features = pooled.view(depth, batch, self.head_width, -1).permute(
            1, 3, 0, 2
        )  # B, head, layer, feature
        found: Tensor = self.attn_head_ffn(self.attn_feat_ffn(features).reshape(batch, -1))
        return found


def build_fusion(shape: FusionShape) -> FusionV1 | FusionV3:
    """The module of a variant."""
    return FusionV1(shape) if shape.variant == "v1" else FusionV3(shape)


def pool_tokens(pool: Pool, branch: Tensor) -> Tensor:
    """(B, N, width) to (B, width)."""
    return branch.mean(1) if pool == "avg" else branch.amax(1)
