"""WeakTr: class tokens, a patch head, and gated attentions that spread its maps (spec 01 §a.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weaksam_cli.models.vit.aaf import FusionShape, FusionV1, FusionV3, Pool, build_fusion, pool_tokens
from weaksam_cli.models.vit.attention import AttentionRecord, Workspace
from weaksam_cli.models.vit.clues import (
    AttentionType,
    ClueMaps,
    choose_map,
    cross_maps,
    patch_scores,
    spread,
)
from weaksam_cli.models.vit.network import ClassTokenVit, Encoded, VitShape


@dataclass(frozen=True)
class WeakTrLogits:
    """What WeakTr is trained by; each (B, C), without a sigmoid.

    Attributes:
        class_token: mean of each class token.
        coarse: mean of the patch head's map, before its ReLU.
        fine: mean of the fine map; its gradient reaches the fusion alone.
    """

    class_token: Tensor
    coarse: Tensor
    fine: Tensor


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
        super().__init__(shape)
        self.head = nn.Conv2d(shape.width, shape.n_classes, 3, padding=1)
        if fusion is not None:
            self.adaptive_attention_fusion = build_fusion(fusion)
        self.pool: Pool = pool
        self.attention_type: AttentionType = attention_type

    @property
    def fusion(self) -> FusionV1 | FusionV3 | None:
        """The module that gives the gates."""
        found: FusionV1 | FusionV3 | None = getattr(self, "adaptive_attention_fusion", None)
        return found

    def encode_for_maps(
        self, images: Tensor, workspace: Workspace, *, most_bytes: int | None = None
    ) -> Encoded:
        """The trunk with the attentions that the maps need.

        Args:
            images: (B, 3, H, W), normalised.
            workspace: memory to use.
            most_bytes: see `AttentionRecord`.
        """
        fusion, weights = self.fusion, None
        if not torch.is_grad_enabled():
            weights = self._weights_beforehand(self.n_tokens(images))
        record = AttentionRecord(
            self.shape.n_classes,
            self.shape.depth,
            workspace=workspace,
            weights=weights,
            want_maxima=isinstance(fusion, FusionV1) and self.pool == "max",
            most_bytes=most_bytes,
        )
        if isinstance(fusion, FusionV3):
            return self.encode(images, record, lambda branch: pool_tokens(self.pool, branch))
        return self.encode(images, record)

    def forward(self, images: Tensor) -> WeakTrLogits:
        """The three logits of images (B, 3, H, W), with gradients where they are enabled."""
        encoded = self.encode_for_maps(images, Workspace())
        scores = self.head(encoded.patch_map)
        with torch.autocast(images.device.type, enabled=False):  # sums of very small numbers
            coarse = scores.detach().float().relu()
            fine = self._fine_map(encoded, coarse, range(self.shape.n_classes))
        return WeakTrLogits(encoded.class_logits(), scores.mean((2, 3)), fine.mean((2, 3)))

    def maps(self, encoded: Encoded, classes: Sequence[int], cross_layers: Sequence[int]) -> ClueMaps:
        """The maps of some classes.

        Args:
            encoded: of `encode_for_maps`.
            classes: indexes of class tokens.
            cross_layers: 0-based layers whose raw attention, before the gates, makes the cross maps.

        Raises:
            ValueError: when the trunk ran with gradients.
        """
        rows = encoded.require_record().class_rows
        if rows is None:
            raise ValueError("maps are made without gradients")
        coarse = patch_scores(self.head, encoded.patch_map, classes).float().relu()
        fine = self._fine_map(encoded, coarse, classes)
        return ClueMaps(coarse, fine, cross_maps(rows, classes, cross_layers, encoded.grid))

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

    def _weights_beforehand(self, n_tokens: int) -> Tensor | None:
        """(heads, depth), when they do not depend on the image."""
        fusion = self.fusion
        if fusion is None:
            return self._mean_weights(torch.ones(1, self.shape.heads * self.shape.depth))[0]
        if isinstance(fusion, FusionV1) and self.pool == "avg":
            return self._mean_weights(fusion.gates_of_average(n_tokens))[0]
        return None

    def _gates(self, encoded: Encoded) -> Tensor:
        """(B, heads * depth) in (0, 1)."""
        fusion, record = self.fusion, encoded.require_record()
        batch, tokens = len(encoded.class_tokens), encoded.n_tokens
        if isinstance(fusion, FusionV3) and encoded.branches is not None:
            return fusion.gates(encoded.branches)
        if isinstance(fusion, FusionV1) and record.maxima is not None:
            return fusion.gates(record.maxima.flatten(1))
        if isinstance(fusion, FusionV1):
            return fusion.gates_of_average(tokens).expand(batch, -1)
        return torch.ones(batch, self.shape.heads * self.shape.depth, device=encoded.class_tokens.device)

    def _mean_weights(self, gates: Tensor) -> Tensor:
        """Gates (B, heads * depth) as weights (B, heads, depth) of a mean over heads and layers."""
        return gates.unflatten(1, (self.shape.heads, self.shape.depth)) / gates.shape[1]
