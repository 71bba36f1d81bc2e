"""MCTformer V1 and V2: class attention of the last layers, spread by the attentions between patches (spec 01 §b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

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

Version = Literal["v1", "v2"]


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
        super().__init__(shape, attention_type)
        self.head: nn.Conv2d | nn.Linear = (
            nn.Conv2d(shape.width, shape.n_classes, 3, padding=1)
            if version == "v2"
            else nn.Linear(shape.width, shape.n_classes)
        )
        self.class_layers = class_layers

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`class_token` is the mean of each class token, `patch` (V2) that of the patch head's map."""
        encoded = self.encode(images)
        logits = {"class_token": encoded.class_logits()}
        if isinstance(self.head, nn.Conv2d):
            logits["patch"] = self.head(encoded.patch_map).mean((2, 3))
        return logits

    def encode_for_maps(self, images: Tensor, workspace: Workspace) -> Encoded:
        """The trunk with the sum over all layers of the attentions, each the mean of its heads."""
        shape = self.shape
        weights = torch.full((shape.heads, shape.depth), 1 / shape.heads)
        return self.encode(images, AttentionRecord(shape.n_classes, shape.depth, workspace, weights=weights))

    def maps(self, encoded: Encoded, classes: Sequence[int], cross_layers: Sequence[int]) -> ClueMaps:
        """See `ClassTokenVit.maps`; the published code gives no kinds, so these are ours.

        Fine is the refined map. Coarse is the patch head's map (V2) or the class attention before refinement (V1). Cross is
        the attention before any mean, as in WeakTr.
        """
        last = encoded.class_rows()[:, :, -self.class_layers :, list(classes)]
        coarse = chosen = last.mean(1).sum(1).unflatten(-1, encoded.grid)
        if isinstance(self.head, nn.Conv2d):
            coarse = patch_scores(self.head, encoded.patch_map, classes).float().relu()
            chosen = choose_map(self.attention_type, chosen, coarse)
        summed, n_classes = encoded.require_record().summed, self.shape.n_classes
        assert summed is not None  # its weights are known beforehand
        fine = spread(summed[:, n_classes:, n_classes:], chosen)
        return ClueMaps(coarse, fine, encoded.cross_maps(classes, cross_layers))


def load_mctformer(
    checkpoint: VitCheckpoint,
    version: Version,
    *,
    class_layers: int = 3,
    attention_type: AttentionType = "fused",
    heads: int | None = None,
) -> MCTformer:
    """MCTformer with the tensors of a checkpoint; see `load_weaktr`.

    Raises:
        UserError: when the tensors do not fit, or are of the other version.
    """
    shape = checkpoint.shape(heads)
    with torch.device("meta"):
        network = MCTformer(shape, version, class_layers=class_layers, attention_type=attention_type)
    return checkpoint.fill(network, checkpoint.tensors)
