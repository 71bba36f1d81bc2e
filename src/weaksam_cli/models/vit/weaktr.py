"""WeakTr: class tokens, a patch head, and attentions, each with a gate of its own, that spread its maps (spec 01 §a.2).

The gates are the adaptive attention fusion, numbered head * depth + layer. Two variants are published: v1 looks at the
attentions themselves (the code that is vendored in WeakSAM), v3 at the outputs of the attention branches (WeakTr's own
repository; spec 01 §a.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.attention import AttentionRecord, Workspace
from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
from weaksam_cli.models.vit.network import (
    AttentionType,
    ClassTokenVit,
    ClueMaps,
    Encoded,
    choose_map,
    patch_scores,
    spread,
)

Pool = Literal["avg", "max"]
Variant = Literal["v1", "v3"]
PREFIX: Final = "adaptive_attention_fusion."
_FIRST_LAYER: Final[Mapping[Variant, str]] = {
    "v1": f"{PREFIX}fc.0.weight",
    "v3": f"{PREFIX}attn_head_ffn.0.weight",
}


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
        """The variant and the numbers that a state dict tells; None when it holds no fusion.

        Raises:
            KeyError: a tensor that tells a number is missing.
            ValueError: one has another number of dimensions.
        """
        for variant, key in _FIRST_LAYER.items():
            if key in state:
                hidden, channels = state[key].shape
                features = state[f"{PREFIX}attn_feat_ffn.0.weight"].shape if variant == "v3" else (0, 0)
                feature_hidden, head_width = features
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


def _gate_layers(shape: FusionShape) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(shape.channels, shape.hidden, bias=False),
        nn.ReLU(),
        nn.Linear(shape.hidden, shape.channels, bias=False),
        nn.Sigmoid(),
    )


class FusionV1(nn.Module):
    """Gates from the attentions, pooled over a whole matrix.

    The mean of a matrix whose rows sum to 1 is 1 / N whatever the image shows, so with average pooling the gates depend on
    the number of tokens alone and are known before the network runs.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.fc = _gate_layers(shape)

    def gates(self, pooled: Tensor) -> Tensor:
        """Gates (B, channels) in (0, 1) from pooled attentions (B, channels)."""
        found: Tensor = self.fc(pooled)
        return found

    def gates_of_average(self, n_tokens: int) -> Tensor:
        """Gates (1, channels) of average pooling over `n_tokens` tokens."""
        first = next(self.fc.parameters())
        return self.gates(first.new_full((1, first.shape[1]), 1 / n_tokens))


class FusionV3(nn.Module):
    """Gates from the outputs of the attention branches, pooled over the tokens."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.attn_head_ffn = _gate_layers(shape)
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
        split = pooled.view(depth, batch, self.head_width, -1)
        features = split.permute(1, 3, 0, 2)  # B, head, layer, feature
        found: Tensor = self.attn_head_ffn(self.attn_feat_ffn(features).reshape(batch, -1))
        return found


class WeakTr(ClassTokenVit):
    """The whole network; its state dict has the official names.

    Args:
        shape: of the trunk.
        fusion: of the adaptive attention fusion; None averages all heads of all layers.
        pool: how the fusion pools; no tensor tells it.
        attention_type: what is refined; `fused` as published.
    """

    def __init__(
        self,
        shape: VitShape,
        fusion: FusionShape | None,
        *,
        pool: Pool = "max",
        attention_type: AttentionType = "fused",
    ) -> None:
        super().__init__(shape, attention_type)
        self.head = nn.Conv2d(shape.width, shape.n_classes, 3, padding=1)
        self.adaptive_attention_fusion: FusionV1 | FusionV3 | None = None
        if fusion is not None:
            self.adaptive_attention_fusion = FusionV1(fusion) if fusion.variant == "v1" else FusionV3(fusion)
        self.pool: Pool = pool

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`class_token` is the mean of each class token; `coarse` that of the patch head's map, before its ReLU; `fine` that
        of the fine map, whose gradient reaches the fusion alone.
        """
        encoded = self.encode_for_maps(images, Workspace())
        scores = self.head(encoded.patch_map)
        with torch.autocast(images.device.type, enabled=False):  # sums of very small numbers
            coarse = scores.detach().float().relu()
            fine = self._fine_map(encoded, coarse, range(self.shape.n_classes))
        return {
            "class_token": encoded.class_logits(),
            "coarse": scores.mean((2, 3)),
            "fine": fine.mean((2, 3)),
        }

    def encode_for_maps(self, images: Tensor, workspace: Workspace) -> Encoded:
        """The trunk with what the gates need; where they are known beforehand, with the gated sum of the attentions."""
        shape, fusion, weights = self.shape, self.adaptive_attention_fusion, None
        if not torch.is_grad_enabled():
            patches = (images.shape[-2] // shape.patch) * (images.shape[-1] // shape.patch)
            gates = self._gates_beforehand(shape.n_classes + patches)
            weights = None if gates is None else self._mean_weights(gates)[0]
        record = AttentionRecord(
            shape.n_classes,
            shape.depth,
            workspace,
            weights=weights,
            want_maxima=isinstance(fusion, FusionV1) and self.pool == "max",
        )
        return self.encode(images, record, self._pooled if isinstance(fusion, FusionV3) else None)

    def maps(self, encoded: Encoded, classes: Sequence[int], cross_layers: Sequence[int]) -> ClueMaps:
        """See `ClassTokenVit.maps`."""
        cross = encoded.cross_maps(classes, cross_layers)
        coarse = patch_scores(self.head, encoded.patch_map, classes).float().relu()
        return ClueMaps(coarse, self._fine_map(encoded, coarse, classes), cross)

    def fused_attention(self, encoded: Encoded) -> Tensor:
        """S: the mean of the gated attentions over heads and layers, (B, N, N)."""
        record = encoded.require_record()
        if record.summed is not None:
            return record.summed
        return record.weighted_sum(self._mean_weights(self._gates(encoded)))

    def _fine_map(self, encoded: Encoded, coarse: Tensor, classes: Sequence[int]) -> Tensor:
        fused, n_classes = self.fused_attention(encoded), self.shape.n_classes
        class_attention = fused[:, list(classes), n_classes:].unflatten(-1, encoded.grid)
        chosen = choose_map(self.attention_type, class_attention, coarse)
        return spread(fused[:, n_classes:, n_classes:], chosen)

    def _pooled(self, branch: Tensor) -> Tensor:
        """(B, N, width) to (B, width)."""
        return branch.mean(1) if self.pool == "avg" else branch.amax(1)

    def _gates_beforehand(self, n_tokens: int) -> Tensor | None:
        """(1, heads * depth), where they do not depend on the image."""
        fusion = self.adaptive_attention_fusion
        if fusion is None:
            return torch.ones(1, self.shape.heads * self.shape.depth, device=self.cls_token.device)
        if isinstance(fusion, FusionV1) and self.pool == "avg":
            return fusion.gates_of_average(n_tokens)
        return None

    def _gates(self, encoded: Encoded) -> Tensor:
        """(B, heads * depth) in (0, 1)."""
        fusion, maxima = self.adaptive_attention_fusion, encoded.require_record().maxima
        if isinstance(fusion, FusionV3) and encoded.branches is not None:
            return fusion.gates(encoded.branches)
        if isinstance(fusion, FusionV1) and maxima is not None:
            return fusion.gates(maxima.flatten(1))
        rows, columns = encoded.grid
        gates = self._gates_beforehand(self.shape.n_classes + rows * columns)
        assert gates is not None  # all that depend on the image were asked for when the trunk ran
        return gates.expand(len(encoded.class_tokens), -1)

    def _mean_weights(self, gates: Tensor) -> Tensor:
        """Gates (B, heads * depth) as weights (B, heads, depth) of a mean over heads and layers."""
        return gates.unflatten(1, (self.shape.heads, self.shape.depth)) / gates.shape[1]


def load_weaktr(
    checkpoint: VitCheckpoint,
    *,
    fusion: Literal["auto", "none"] = "auto",
    pool: Pool = "max",
    attention_type: AttentionType = "fused",
    heads: int | None = None,
) -> WeakTr:
    """WeakTr with the tensors of a checkpoint, every one of them, frozen, in evaluation mode, float32.

    Args:
        checkpoint: the file.
        fusion: `auto` takes the variant of adaptive attention fusion that the file holds; `none` averages all attentions
            and leaves out the fusion of the file: the maps of the published engine with weights of the other variant.
        pool: see `WeakTr`.
        attention_type: see `WeakTr`.
        heads: attention heads of a block; None takes what the fusion tells, else heads of 64 channels.

    Raises:
        UserError: when the tensors do not fit: how many, and the first few.
    """
    try:
        found = FusionShape.of_state(checkpoint.tensors)
    except (KeyError, ValueError) as error:
        what = f"the attention fusion cannot be read ({error})"
        raise UserError(what, where=checkpoint.where, remedy="Fetch the checkpoint again") from error
    if found is not None and heads is None:
        heads = found.channels // checkpoint.shape().depth
    shape = checkpoint.shape(heads)
    if found is not None and found.channels != shape.heads * shape.depth:
        raise UserError(
            f"the attention fusion is for {found.channels} attentions, {shape.heads} heads in {shape.depth} layers make "
            f"{shape.heads * shape.depth}",
            where=checkpoint.where,
            remedy="Leave `heads` at null",
        )
    keys = [key for key in checkpoint.tensors if fusion == "auto" or not key.startswith(PREFIX)]
    with torch.device("meta"):
        network = WeakTr(shape, found if fusion == "auto" else None, pool=pool, attention_type=attention_type)
    return checkpoint.fill(network, keys)
