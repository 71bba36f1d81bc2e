"""The multi-label linear head of the embedded method: trained on image-level labels over frozen features.

A 1x1 convolution over a feature map followed by a global average is the average followed by a linear layer, so the
head learns from one pooled vector per view and is applied at every cell to give class activation maps (Zhou et al.,
"Learning Deep Features for Discriminative Localization", CVPR 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SMALLEST_DEVIATION = 1e-3
"""Added to a feature's standard deviation: features that never fire would be blown up by rounding noise."""


@dataclass(frozen=True)
class LinearHead:
    """A linear layer on features.

    Attributes:
        weight: float32 (classes, channels).
        bias: float32 (classes,).
    """

    weight: FloatArray
    bias: FloatArray

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"head: expected weight (classes, channels) and bias (classes,), "
                f"got {self.weight.shape} and {self.bias.shape}"
            )

    def logits(self, features: FloatArray) -> FloatArray:
        """Logits (..., classes) of features (..., channels)."""
        answer: FloatArray = features @ self.weight.T + self.bias
        return answer

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Independent probabilities of the classes, (..., classes), of features (..., channels)."""
        answer: FloatArray = np.float32(1) / (np.float32(1) + np.exp(-self.logits(features)))
        return answer


def fit_linear_head(
    features: FloatArray, labels: NDArray[np.bool_], *, penalty: float = 5e-3, iterations: int = 60
) -> LinearHead:
    """Logistic regression, one class against the rest, all classes at once; full-batch L-BFGS, without randomness.

    Features are standardised for the fit and the scaling is folded into the head. The loss is the binary
    cross-entropy, summed over classes and averaged over rows, plus `penalty` times the sum of squared weights.

    Args:
        features: float32 (n, channels), globally averaged features; several views of an image are several rows.
        labels: bool (n, classes), image-level labels of each row's image.
        penalty: weight of the squared norm.
        iterations: at most so many L-BFGS iterations.

    Raises:
        ValueError: when there are no rows, or the shapes do not fit.
    """
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels) or not len(features):
        raise ValueError(
            f"features, labels: expected (n, channels), (n, classes), n > 0; got {features.shape}, {labels.shape}"
        )
    import torch
    import torch.nn.functional as F

    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = features.std(axis=0, dtype=np.float64).astype(np.float32) + np.float32(SMALLEST_DEVIATION)
    inputs = torch.from_numpy((features - mean) / deviation)
    targets = torch.from_numpy(labels.astype(np.float32))
    weight = torch.zeros(labels.shape[1], features.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(inputs @ weight.T + bias, targets, reduction="none")
        loss = entropy.sum(dim=1).mean() + penalty * weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    scaled = weight.detach().numpy() / deviation
    return LinearHead(scaled, bias.detach().numpy() - scaled @ mean)
