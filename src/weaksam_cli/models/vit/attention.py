"""What class activation maps need of the attentions of one forward, and no more of them in memory than that.

The attentions of DeiT-S are 72 matrices of tokens by tokens: 320 MB at 1,056 tokens. The maps need the rows of the class
tokens, which are few, and one weighted sum of all matrices. Where its weights are known beforehand it is summed while the
network runs; otherwise the matrices wait until they are known, or are computed anew from queries and keys when they would
take too much memory.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

CPU_BYTES: Final = 1 << 30
"""Room for waiting matrices on a CPU: one view of 640 x 480 at scale 1.2, two of 500 x 375."""
GPU_BYTES: Final = 1 << 32
ROWS: Final = 256
"""Rows of a matrix that a CPU computes at once: with a thousand columns they stay in its cache, whole matrices do not."""


class Workspace:
    """Memory that every forward fills again: on a CPU, fresh memory costs a page fault every 4 KB."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Uninitialised float32 of a shape; what was taken under the same name before is overwritten."""
        if device.type != "cpu":  # torch keeps the memory of a GPU itself
            return torch.empty(shape, device=device)
        count = torch.Size(shape).numel()
        if name not in self._flat or self._flat[name].numel() < count:
            self._flat.pop(name, None)
            self._flat[name] = torch.empty(count)
        return self._flat[name][:count].view(shape)


class AttentionRecord:
    """Takes the attentions of one forward, layer by layer; with gradients, cut from the graph.

    Args:
        n_classes: C, the first tokens.
        depth: number of layers.
        workspace: memory to use; the sum is valid until the next forward that uses it.
        weights: float (heads, depth) of the sum, where they are known beforehand.
        want_maxima: whether the largest value of every matrix is needed.

    Attributes:
        summed: float32 (B, N, N), the sum with `weights`; None without them.
        class_rows: float32 (B, heads, depth, C, N - C), attention of class tokens to patches; None with gradients.
        maxima: float32 (B, heads, depth), where they are wanted.
    """

    def __init__(
        self,
        n_classes: int,
        depth: int,
        workspace: Workspace,
        *,
        weights: Tensor | None = None,
        want_maxima: bool = False,
    ) -> None:
        self.summed: Tensor | None = None
        self.class_rows: Tensor | None = None
        self.maxima: Tensor | None = None
        self._n_classes, self._depth, self._workspace = n_classes, depth, workspace
        self._weights = None if weights is None else weights.tolist()
        self._want_maxima = want_maxima
        self._layer = 0
        self._room: Tensor | None = None
        self._in_graph: list[Tensor] = []
        self._queries_and_keys: list[tuple[Tensor, Tensor]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T) v of the next layer, (B, heads, N, d), noting what is needed of the matrices.

        Args:
            q, k, v: (B, heads, N, d); q is scaled already.
        """
        if self._layer == 0:
            self._make_room(q)
        if self._computes_at_once(q):
            matrices = (q @ k.mT).softmax(-1)
            self._note(slice(None), slice(None), slice(0, q.shape[2]), matrices.detach())
            context = matrices @ v
        else:
            context = self._attend_in_parts(q, k, v)
        if self._weights is None and self._room is None and not torch.is_grad_enabled():
            self._queries_and_keys.append((q, k))
        self._layer += 1
        return context

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """The sum of all matrices, each image with its own weights; with gradients, differentiable in them.

        Args:
            weights: float (B, heads, depth).

        Returns:
            float32 (B, N, N).
        """
        if self._in_graph:
            total = torch.zeros_like(self._in_graph[0][:, 0])
            for layer, matrices in enumerate(self._in_graph):
                total = total + torch.einsum("bhij,bh->bij", matrices, weights[:, :, layer])
            return total
        some = self._room[0] if self._room is not None else self._queries_and_keys[0][0]
        batch, heads, tokens = some.shape[:3]
        total = self._workspace.take("sum", (batch, tokens, tokens), some.device).zero_()
        for image, of_image in enumerate(weights.tolist()):
            for rows in self._parts(some):
                for layer in range(self._depth):
                    for head in range(heads):
                        part = self._part(layer, image, head, rows)
                        total[image, rows].add_(part, alpha=of_image[head][layer])
        return total

    def _computes_at_once(self, q: Tensor) -> bool:
        """Whether a layer is computed at once, or some rows of a head after the other."""
        return q.device.type != "cpu" or torch.is_grad_enabled()

    def _make_room(self, q: Tensor) -> None:
        batch, heads, tokens, _ = q.shape
        take, patches = self._workspace.take, tokens - self._n_classes
        if self._want_maxima:
            self.maxima = torch.zeros(batch, heads, self._depth, device=q.device)
        if torch.is_grad_enabled():
            return
        self.class_rows = torch.empty(batch, heads, self._depth, self._n_classes, patches, device=q.device)
        shape = (self._depth, batch, heads, tokens, tokens)
        most = CPU_BYTES if q.device.type == "cpu" else GPU_BYTES
        if self._weights is not None:
            self.summed = take("sum", (batch, tokens, tokens), q.device).zero_()
        elif 4 * torch.Size(shape).numel() <= most:
            self._room = take("matrices", shape, q.device)

    def _parts(self, q: Tensor) -> list[slice]:
        """The rows of a matrix that are computed together."""
        tokens = q.shape[2]
        step = tokens if self._computes_at_once(q) else ROWS
        return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]

    def _attend_in_parts(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = torch.empty_like(v, memory_format=torch.contiguous_format)
        batch, heads, tokens, _ = q.shape
        for image in range(batch):
            for head in range(heads):
                for rows in self._parts(q):
                    if self._room is not None:
                        part = self._room[self._layer, image, head, rows]
                    else:
                        part = self._workspace.take("part", (rows.stop - rows.start, tokens), q.device)
                    self._softmax(q[image, head, rows], k[image, head], part)
                    torch.matmul(part, v[image, head], out=context[image, head, rows])
                    self._note(slice(image, image + 1), slice(head, head + 1), rows, part[None, None])
        return context

    def _softmax(self, q: Tensor, k: Tensor, part: Tensor) -> None:
        logits = self._workspace.take("logits", (len(q), len(k)), q.device)
        torch.matmul(q, k.mT, out=logits)
        torch.softmax(logits, -1, out=part)

    def _note(self, images: slice, heads: slice, rows: slice, parts: Tensor) -> None:
        """What is needed of some rows (b, h, rows, N) of some matrices of the present layer."""
        layer, classes = self._layer, self._n_classes
        if self.class_rows is not None and rows.start < classes:
            stop = min(rows.stop, classes)
            taken = parts[:, :, : stop - rows.start, classes:]
            self.class_rows[images, heads, layer, rows.start : stop] = taken
        if self.maxima is not None:
            before = self.maxima[images, heads, layer]
            self.maxima[images, heads, layer] = torch.maximum(before, parts.amax((-2, -1)).float())
        if torch.is_grad_enabled():
            self._in_graph.append(parts)
        elif self.summed is not None and self._weights is not None:
            for row, of_head in enumerate(self._weights[heads]):
                self.summed[images, rows].add_(parts[:, row], alpha=of_head[layer])
        elif self._room is not None and heads == slice(None):  # else it was computed where it waits
            self._room[layer] = parts

    def _part(self, layer: int, image: int, head: int, rows: slice) -> Tensor:
        """Rows of a matrix that waits, or that is computed anew."""
        if self._room is not None:
            return self._room[layer, image, head, rows]
        q, k = (item[image, head].float() for item in self._queries_and_keys[layer])
        part = self._workspace.take("part", (rows.stop - rows.start, len(k)), q.device)
        self._softmax(q[rows], k, part)
        return part
