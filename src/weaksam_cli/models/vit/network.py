"""DeiT with a token a class: the trunk of WeakTr and MCTformer, and what both make of its outputs (spec 01 §a, §b).

Names of all parameters are the official ones. timm gives the linear patch embedding and the perceptron. Its `Attention` and
`Block` do not give the attentions away, and its `DropPath` multiplies by 1 / keep where the published code divides by keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from weaksam_cli.models.lite import STAGES_OF_STRIDE, Lite, load_lite
from weaksam_cli.models.vit.attention import AttentionRecord, Workspace
from weaksam_cli.models.vit.checkpoint import COLOURS, LITE0_PATCH, VitShape, native_side

AttentionType = Literal["fused", "patchcam", "attention"]
"""Which map is refined: class attention times patch map, the patch map alone, or the class attention alone."""
LAYER_NORM_EPSILON: Final = 1e-6
_POSITION_MARGIN: Final = 0.1
"""Added to the number of patches before the division, so that rounding never loses a row; it enters the sampling."""


def positions_for(pos_embed: Tensor, n_classes: int, size: tuple[int, int], patch: int) -> Tensor:
    """The position embedding of an image.

    The patch part is resized bicubically by a *scale factor*, (patches + 0.1) / (native patches), which itself enters the
    sampling grid. timm's `resample_abs_pos_embed` resizes to a size, which gives other numbers. A square image with the
    native number of patches takes the embedding as it is (spec 01 §a.1).

    Args:
        pos_embed: (1, C + g * g, width), classes first, patches row-major.
        n_classes: C.
        size: height and width of the image in pixels.
        patch: side of a patch.

    Returns:
        (1, C + h * w, width) with h, w whole patches.
    """
    height, width = size
    rows, columns = height // patch, width // patch
    classes, patches = pos_embed[:, :n_classes], pos_embed[:, n_classes:]
    side = native_side(patches.shape[1])
    if rows * columns == side * side and height == width:
        return pos_embed
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((rows + _POSITION_MARGIN) / side, (columns + _POSITION_MARGIN) / side)
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([classes, resized.flatten(2).transpose(1, 2)], dim=1)


class Lite0Embedding(nn.Module):
    """A hybrid's: EfficientNet-Lite0 as far as stride 16, then a linear layer a cell (arXiv 2010.11929 §3.1).

    The convolutions keep their weights: they stay in evaluation mode and get no gradient.

    Args:
        width: of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = Lite("lite0", STAGES_OF_STRIDE[LITE0_PATCH]).requires_grad_(False)
        self.proj = nn.Conv2d(self.stem.channels[LITE0_PATCH], width, 1)

    def load_published(self) -> None:
        """Give the convolutions their ImageNet weights, in place.

        Raises:
            UserError: see `load_lite`.
        """
        published = load_lite("lite0").state_dict()
        self.stem.load_state_dict({name: published[name] for name in self.stem.state_dict()})

    def train(self, mode: bool = True) -> Lite0Embedding:
        """The convolutions' statistics stay, too: they have no training mode."""
        super().train(mode)
        self.stem.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, width, H // 16, W // 16); what is beyond the last whole patch is left out."""
        height, width = (side // LITE0_PATCH * LITE0_PATCH for side in images.shape[-2:])
        with torch.no_grad():
            cells = self.stem.trunk(images[..., :height, :width])
        embedded: Tensor = self.proj(cells.contiguous())
        return embedded


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, record: AttentionRecord | None) -> Tensor:
        """(B, N, width) to the same; without a record by torch's own kernel, which keeps no matrix at all."""
        batch, count, width = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = q * q.shape[-1] ** -0.5
        attend = partial(F.scaled_dot_product_attention, scale=1.0) if record is None else record.attend
        context: Tensor = attend(q, k, v)
        projected: Tensor = self.proj(context.transpose(1, 2).reshape(batch, count, width))
        return projected


class Block(nn.Module):
    """A pre-norm transformer block; in training, whole branches are dropped at random (stochastic depth)."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.mlp = Mlp(shape.width, shape.hidden)
        self.drop_rate = 0.0

    def forward(self, tokens: Tensor, record: AttentionRecord | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, width) to the next ones, and the output of the attention branch before it is dropped or added."""
        branch = self.attn(self.norm1(tokens), record)
        tokens = tokens + self._dropped(branch)
        return tokens + self._dropped(self.mlp(self.norm2(tokens))), branch

    def _dropped(self, branch: Tensor) -> Tensor:
        """The branch, in training left out for some images and grown for the others, so that its mean stays."""
        if not self.training or self.drop_rate == 0:
            return branch
        keep = 1 - self.drop_rate
        stays = torch.empty(len(branch), 1, 1, device=branch.device, dtype=branch.dtype).bernoulli_(keep)
        return branch * stays / keep


@dataclass(frozen=True)
class Encoded:
    """What one forward of the trunk gives.

    Attributes:
        class_tokens: (B, C, width), raw: the final norm is not applied.
        patch_map: (B, width, h, w), likewise.
        record: the attentions; None where nobody asked for them.
        branches: (depth, B, width), the outputs of the attention branches pooled over the tokens, where asked for.
    """

    class_tokens: Tensor
    patch_map: Tensor
    record: AttentionRecord | None
    branches: Tensor | None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.patch_map.shape[2], self.patch_map.shape[3]

    def class_logits(self) -> Tensor:
        """(B, C): the mean of every class token."""
        return self.class_tokens.mean(-1)

    def require_record(self) -> AttentionRecord:
        """The attentions.

        Raises:
            ValueError: when the trunk ran without a record of them.
        """
        if self.record is None:
            raise ValueError("the trunk ran without a record of its attentions")
        return self.record

    def class_rows(self) -> Tensor:
        """The attention of class tokens to patches, (B, heads, depth, C, n).

        Raises:
            ValueError: when the trunk ran without a record of it, or with gradients.
        """
        rows = self.require_record().class_rows
        if rows is None:
            raise ValueError("maps are made without gradients")
        return rows

    def cross_maps(self, classes: Sequence[int], layers: Sequence[int]) -> Tensor:
        """Attention of class tokens to patches, a map for each head of each layer.

        Args:
            classes: k of the C classes.
            layers: 0-based.

        Returns:
            (B, k, heads * layers, h, w), numbered head * layers + layer.
        """
        chosen = self.class_rows()[:, :, list(layers)][:, :, :, list(classes)]  # B, heads, layers, k, n
        return chosen.flatten(1, 2).transpose(1, 2).unflatten(-1, self.grid)


@dataclass(frozen=True)
class ClueMaps:
    """Maps of k classes at the resolution of the patches.

    Attributes:
        coarse: float32 (B, k, h, w).
        fine: float32 (B, k, h, w).
        cross: float32 (B, k, m, h, w), m = heads * layers, numbered head * layers + layer; m may be 0.
    """

    coarse: Tensor
    fine: Tensor
    cross: Tensor


class ClassTokenVit(nn.Module):
    """The trunk: class tokens and patch tokens, row-major, through pre-norm blocks.

    Its methods `forward` (the logits that it is trained by), `encode_for_maps` and `maps` are those of WeakTr and MCTformer.
    `norm` is in the official files and therefore here; the published networks do not apply it.
    """

    def __init__(self, shape: VitShape, attention_type: AttentionType) -> None:
        super().__init__()
        self.shape = shape
        self.attention_type: AttentionType = attention_type
        self.cls_token = nn.Parameter(torch.zeros(1, shape.n_classes, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.n_classes + shape.side**2, shape.width))
        self.patch_embed: nn.Module = (
            Lite0Embedding(shape.width)
            if shape.embedding == "lite0"
            else PatchEmbed(None, shape.patch, COLOURS, shape.width, flatten=False, strict_img_size=False)
        )
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self._initialise()

    def _initialise(self) -> None:
        """DeiT's random start: truncated normal of deviation 0.02, no biases; convolutions as torch has them."""
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth in training mode, rising linearly from 0 in the first block to `rate` in the last."""
        for index, block in enumerate(self.blocks):
            block.drop_rate = rate * index / max(1, len(self.blocks) - 1)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The logits of images (B, 3, H, W) by name, each (B, C) and without a sigmoid, each trained by the same loss."""
        raise NotImplementedError

    def encode_for_maps(self, images: Tensor, workspace: Workspace) -> Encoded:
        """The trunk over images (B, 3, H, W) with the attentions that the maps need, in the memory of `workspace`."""
        raise NotImplementedError

    def maps(self, encoded: Encoded, classes: Sequence[int], cross_layers: Sequence[int]) -> ClueMaps:
        """The maps of some classes.

        Args:
            encoded: of `encode_for_maps`.
            classes: indexes of class tokens.
            cross_layers: 0-based layers whose raw attention, before any gate or mean, makes the cross maps.

        Raises:
            ValueError: when the trunk ran with gradients.
        """
        raise NotImplementedError

    def encode(
        self,
        images: Tensor,
        record: AttentionRecord | None = None,
        pool: Callable[[Tensor], Tensor] | None = None,
    ) -> Encoded:
        """Run the trunk.

        Args:
            images: (B, 3, H, W), normalised, at least one patch high and wide.
            record: takes the attentions; without it none is kept.
            pool: (B, N, width) to (B, width); called with the output of every attention branch, cut from the graph.
        """
        patches = self.patch_embed(images)
        tokens = torch.cat(
            [self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        size = (images.shape[-2], images.shape[-1])
        n_classes = self.shape.n_classes
        tokens = tokens + positions_for(self.pos_embed, n_classes, size, self.shape.patch)
        branches = []
        for block in self.blocks:
            tokens, branch = block(tokens, record)
            if pool is not None:
                branches.append(pool(branch.detach()).float())
        return Encoded(
            class_tokens=tokens[:, :n_classes],
            patch_map=tokens[:, n_classes:].transpose(1, 2).unflatten(2, patches.shape[-2:]),
            record=record,
            branches=torch.stack(branches) if branches else None,
        )


def patch_scores(head: nn.Conv2d, patch_map: Tensor, classes: Sequence[int]) -> Tensor:
    """The 3 x 3 convolution of patch tokens (B, width, h, w) for some classes: (B, k, h, w)."""
    rows = list(classes)
    bias = None if head.bias is None else head.bias[rows]
    return F.conv2d(patch_map.to(head.weight.dtype), head.weight[rows], bias, padding=1)


def choose_map(attention_type: AttentionType, class_attention: Tensor, patch_map: Tensor) -> Tensor:
    """The map (B, k, h, w) that is refined."""
    if attention_type == "patchcam":
        return patch_map
    return class_attention * patch_map if attention_type == "fused" else class_attention


def spread(affinity: Tensor, maps: Tensor) -> Tensor:
    """Every location becomes the sum of all locations, weighted by its row of the affinity.

    Args:
        affinity: (B, n, n), rows are where the result goes; not normalised.
        maps: (B, k, h, w) with h * w = n.
    """
    return torch.matmul(maps.flatten(2), affinity.mT).view_as(maps)
