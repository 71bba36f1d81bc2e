"""RoIAlign as two small matrix products for each RoI, for processors.

Bilinear samples on a regular grid, averaged over each bin, are a product of a weight for the row and a weight for the
column: `out = A_y F A_x^T`. On the small maps of small images that is several times faster than torchvision's
operator, above all backwards, and its sums have a fixed order. Values equal torchvision's aligned RoIAlign up to rounding.
Numbers of RoIs are `shape[0]` and not `len`, which a tracer takes for constants.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sampling_weights(low: Tensor, high: Tensor, bins: int, samples: int, size: int) -> Tensor:
    """Weights (R, bins, size) of an axis' cells in each bin of each RoI.

    Args:
        low, high: float (R,), ends of the RoIs on this axis in cells, pixel edges.
        bins: bins of the axis.
        samples: samples of a bin, evenly spread and averaged.
        size: cells of the axis. A sample more than one cell outside counts as zero, a nearer one takes the border's cell.
    """
    step = torch.arange(bins * samples, dtype=low.dtype, device=low.device)
    positions = (step + 0.5) / (bins * samples)
    points = low[:, None] - 0.5 + positions[None, :] * (high - low)[:, None]
    inside = (points >= -1.0) & (points <= size)
    cells = torch.arange(size, dtype=low.dtype, device=low.device)
    weights = (1.0 - (points.clamp(0, size - 1)[:, :, None] - cells).abs()).clamp(min=0) * inside[:, :, None]
    return weights.view(low.shape[0], bins, samples, size).mean(dim=2)


class DenseRoiAlign(nn.Module):
    """A drop-in for detectron2's `ROIAlign(aligned=True)`.

    Args:
        bins: height and width of the output.
        scale: cells of the map for each pixel of the image.
        samples: samples for each bin and axis.
    """

    def __init__(self, bins: int, scale: float, samples: int) -> None:
        super().__init__()
        self.bins, self.scale, self.samples = bins, scale, samples

    def forward(self, maps: Tensor, rois: Tensor) -> Tensor:
        """Pooled features (R, c, bins, bins) of maps (n, c, h, w) and RoIs (R, 5): image, x1, y1, x2, y2 in pixels."""
        pooled = maps.new_zeros(rois.shape[0], maps.shape[1], self.bins, self.bins)
        for index in range(len(maps)):
            members = torch.nonzero(rois[:, 0] == index).flatten()
            pooled = pooled.index_copy(0, members, self._pool(maps[index], rois[members, 1:] * self.scale))
        return pooled

    def _pool(self, features: Tensor, boxes: Tensor) -> Tensor:
        channels, height, width = features.shape
        rows = sampling_weights(boxes[:, 1], boxes[:, 3], self.bins, self.samples, height)
        columns = sampling_weights(boxes[:, 0], boxes[:, 2], self.bins, self.samples, width)
        flat = features.permute(1, 2, 0).reshape(height, width * channels)
        in_rows = (rows.reshape(-1, height) @ flat).view(boxes.shape[0], self.bins, width, channels)
        return (columns[:, None] @ in_rows).permute(0, 3, 1, 2)


class RoiAverage(nn.Module):
    """The mean over each RoI of maps (n, c, h, w): one bin of `DenseRoiAlign`, cheap for many channels."""

    def __init__(self, scale: float, samples: int) -> None:
        super().__init__()
        self.scale, self.samples = scale, samples

    def forward(self, maps: Tensor, boxes: list[Tensor]) -> Tensor:
        """Averages (R, c) for boxes (R_i, 4) in pixels, one tensor for each image."""
        parts = []
        for features, own in zip(maps, boxes, strict=True):
            channels, height, width = features.shape
            cells = own * self.scale
            rows = sampling_weights(cells[:, 1], cells[:, 3], 1, self.samples, height)
            columns = sampling_weights(cells[:, 0], cells[:, 2], 1, self.samples, width)
            weights = (rows.transpose(1, 2) * columns).reshape(own.shape[0], height * width)
            parts.append(weights @ features.reshape(channels, -1).T)
        return torch.cat(parts)
