"""DeiT with a token a class: the trunk of WeakTr and MCTformer, under the official names (spec 01 §a.1, §a.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weaksam_cli.models.vit.attention import AttentionRecord, attend
from weaksam_cli.models.vit.embedding import EmbeddingName, embedding_of_state, make_embedding
from weaksam_cli.models.vit.position import native_side, positions_for

LAYER_NORM_EPSILON = 1e-6
DEIT_HEAD_WIDTH = 64


@dataclass(frozen=True)
class VitShape:
    """The numbers that make a network.

    Attributes:
        n_classes: class tokens (C).
        width: of a token.
        depth: number of blocks.
        heads: attention heads of a block.
        hidden: width of the perceptron in a block.
        patch: side of a patch in pixels.
        side: patches along a side of the square that the position embedding is for.
        embedding: what makes tokens of patches.
    """

    n_classes: int
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    patch: int = 16
    side: int = 14
    embedding: EmbeddingName = "linear"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be shared by {self.heads} heads")

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], heads: int | None = None) -> VitShape:
        """The shape that a state dict tells.

        Args:
            state: tensors by their official names.
            heads: attention heads, which no tensor tells; None for heads of 64 channels as in all of DeiT.

        Raises:
            KeyError: a tensor that tells a number is missing.
            ValueError: the numbers do not fit each other.
        """
        n_classes, width = state["cls_token"].shape[1:]
        embedding, patch = embedding_of_state(state)
        layers = {int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
        return cls(
            n_classes=n_classes,
            width=width,
            depth=len(layers),
            heads=heads or max(1, width // DEIT_HEAD_WIDTH),
            hidden=state["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            side=native_side(state["pos_embed"].shape[1] - n_classes),
            embedding=embedding,
        )


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

    @property
    def n_tokens(self) -> int:
        """Class tokens and patches."""
        return self.class_tokens.shape[1] + self.grid[0] * self.grid[1]

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


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, record: AttentionRecord | None) -> Tensor:
        """(B, N, width) to the same."""
        batch, count, width = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        context = attend(q * q.shape[-1] ** -0.5, k, v, record)
        projected: Tensor = self.proj(context.transpose(1, 2).reshape(batch, count, width))
        return projected


class Perceptron(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) to the same."""
        changed: Tensor = self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return changed


class Block(nn.Module):
    """A pre-norm transformer block; in training, whole branches are dropped at random (stochastic depth)."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.mlp = Perceptron(shape.width, shape.hidden)
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


class ClassTokenVit(nn.Module):
    """The trunk: class tokens and patch tokens, row-major, through pre-norm blocks.

    `norm` is in the official files and therefore here; the published networks do not apply it.
    """

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, shape.n_classes, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.n_classes + shape.side**2, shape.width))
        self.patch_embed = make_embedding(shape.embedding, shape.width, shape.patch)
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
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        for index, block in enumerate(blocks):
            block.drop_rate = rate * index / max(1, len(blocks) - 1)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of whole patches in images (B, 3, H, W)."""
        return images.shape[-2] // self.shape.patch, images.shape[-1] // self.shape.patch

    def n_tokens(self, images: Tensor) -> int:
        """Tokens of each of the images (B, 3, H, W)."""
        rows, columns = self.grid(images)
        return self.shape.n_classes + rows * columns

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
        rows, columns = self.grid(images)
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        size = (images.shape[-2], images.shape[-1])
        tokens = tokens + positions_for(self.pos_embed, self.shape.n_classes, size, self.shape.patch)
        branches = []
        for block in self.blocks:
            tokens, branch = block(tokens, record)
            if pool is not None:
                branches.append(pool(branch.detach()).float())
        n_classes = self.shape.n_classes
        return Encoded(
            class_tokens=tokens[:, :n_classes],
            patch_map=tokens[:, n_classes:].transpose(1, 2).unflatten(2, (rows, columns)),
            record=record,
            branches=torch.stack(branches) if branches else None,
        )
