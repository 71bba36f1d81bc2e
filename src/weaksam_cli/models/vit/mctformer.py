"""MCTformer V1 and V2: class attention of the last layers, spread by the attentions between patches (spec 01 §b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

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

Version = Literal["v1", "v2"]


@dataclass(frozen=True)
class MCTformerLogits:
    """What MCTformer is trained by; each (B, C), without a sigmoid.

    Attributes:
        class_token: mean of each class token.
        patch: mean of the patch head's map; None in V1, which has no patch head.
    """

    class_token: Tensor
    patch: Tensor | None


class MCTformer(ClassTokenVit):
    """The whole network; its state dict has the official names.

    Args:
        shape: of the trunk.
        version: V1 has a linear head that nothing uses, V2 a 3 x 3 convolution over the patch tokens.
        class_layers: n, the last layers whose class attention is summed; 3 as published.
        attention_type: what V2 refines; `fused` as published. V1 has nothing but its class attention.
    """

    def __init__(
        self,
        shape: VitShape,
        version: Version,
        *,
        class_layers: int = 3,
        attention_type: AttentionType = "fused",
    ) -> None:
        super().__init__(shape)
        self.head: nn.Conv2d | nn.Linear = (
            nn.Conv2d(shape.width, shape.n_classes, 3, padding=1)
            if version == "v2"
            else nn.Linear(shape.width, shape.n_classes)
        )
        self.class_layers = class_layers
        self.attention_type: AttentionType = attention_type

    def encode_for_maps(
        self, images: Tensor, workspace: Workspace, *, most_bytes: int | None = None
    ) -> Encoded:
        """The trunk with the sum over all layers of the attentions, each the mean of its heads; see `WeakTr`."""
        shape = self.shape
        weights = torch.full((shape.heads, shape.depth), 1 / shape.heads)
        record = AttentionRecord(
            shape.n_classes, shape.depth, workspace=workspace, weights=weights, most_bytes=most_bytes
        )
        return self.encode(images, record)

    def forward(self, images: Tensor) -> MCTformerLogits:
        """The logits of images (B, 3, H, W), with gradients where they are enabled."""
        encoded = self.encode(images)
        patch = self.head(encoded.patch_map).mean((2, 3)) if isinstance(self.head, nn.Conv2d) else None
        return MCTformerLogits(encoded.class_logits(), patch)

    def maps(self, encoded: Encoded, classes: Sequence[int], cross_layers: Sequence[int]) -> ClueMaps:
        """The maps of some classes; the published code gives no kinds, so these are ours.

        Fine is the refined map. Coarse is the patch head's map (V2) or the class attention before refinement (V1). Cross is
        the attention before any mean, as in WeakTr.

        Args:
            encoded: of `encode_for_maps`.
            classes: indexes of class tokens.
            cross_layers: 0-based layers of the cross maps.

        Raises:
            ValueError: when the trunk ran with gradients.
        """
        record, n_classes = encoded.require_record(), self.shape.n_classes
        if record.class_rows is None or record.summed is None:
            raise ValueError("maps are made without gradients")
        last = record.class_rows[:, :, -self.class_layers :, list(classes)]
        class_attention = last.mean(1).sum(1).unflatten(-1, encoded.grid)
        coarse = chosen = class_attention
        if isinstance(self.head, nn.Conv2d):
            coarse = patch_scores(self.head, encoded.patch_map, classes).float().relu()
            chosen = choose_map(self.attention_type, class_attention, coarse)
        fine = spread(record.summed[:, n_classes:, n_classes:], chosen)
        return ClueMaps(coarse, fine, cross_maps(record.class_rows, classes, cross_layers, encoded.grid))
