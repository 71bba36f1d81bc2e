"""Which proposals are foreground: detectron2's rule, or the top-3 rule of the published code.

The published detector quietly replaced detectron2's matcher: of each ground-truth box only the three proposals of highest
IoU are foreground, and every other proposal is background, also one of IoU 0.9. The paper does not mention it. With
fewer than three proposals the published code fails; here it takes those there are.
"""

from __future__ import annotations

import torch
from torch import Tensor


class TopKMatcher:
    """The k best proposals of each ground truth, as far as their best IoU reaches the threshold.

    Args:
        threshold: a proposal whose best IoU is below is background.
        k: proposals for each ground-truth box.
    """

    def __init__(self, threshold: float = 0.5, k: int = 3) -> None:
        self.threshold = threshold
        self.k = k

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Match proposals with ground truth.

        Args:
            quality: IoU float (M ground truths, N proposals).

        Returns:
            int64 (N,), the ground truth of highest IoU (0 where there is none), and int8 (N,), 1 foreground, 0 background.
        """
        truths, proposals = quality.shape
        labels = torch.zeros(proposals, dtype=torch.int8, device=quality.device)
        if truths == 0 or proposals == 0:
            return torch.zeros(proposals, dtype=torch.int64, device=quality.device), labels
        best, matches = quality.max(dim=0)
        # A stable sort, because topk leaves open which of equal proposals it takes.
        order = torch.sort(quality, dim=1, descending=True, stable=True).indices
        labels[order[:, : self.k].flatten()] = 1
        labels[best < self.threshold] = 0
        return matches, labels
