"""RoIAlign as matrix products equals torchvision's operator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from weaksam_cli.detectron.dense_roi_align import DenseRoiAlign, RoiAverage


def random_rois(count: int, images: int) -> Tensor:
    """Inside, across the border, outside, without area."""
    torch.manual_seed(count)
    corner, size = torch.rand(count, 2) * 140 - 20, torch.rand(count, 2) * 90
    if count > 1:
        size[1] = 0
    sample = torch.arange(count).remainder(images)[:, None]
    return torch.cat([sample, corner, corner + size], dim=1)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 30])
@pytest.mark.parametrize(
    ("bins", "scale", "samples"), [(7, 0.125, 2), (7, 0.25, 1), (1, 1 / 32, 4), (3, 0.0625, 3)]
)
def test_equals_torchvision(count: int, bins: int, scale: float, samples: int) -> None:
    maps = torch.randn(2, 5, max(int(100 * scale), 1), max(int(120 * scale), 1), dtype=torch.float64)
    rois = random_rois(count, 2).double()
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    got = DenseRoiAlign(bins, scale, samples)(ours, rois)
    wanted = roi_align(theirs, rois, bins, scale, samples, aligned=True)
    assert got.shape == (count, 5, bins, bins)
    assert torch.allclose(got, wanted, atol=1e-9)
    if count:
        weight = torch.randn_like(wanted)
        (got * weight).sum().backward()
        (wanted * weight).sum().backward()
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-9)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (2, 6)])
def test_average_is_one_bin(counts: tuple[int, int]) -> None:
    maps = torch.randn(2, 9, 4, 5)
    rois = random_rois(sum(counts), 1)
    rois[counts[0] :, 0] = 1
    boxes = [rois[: counts[0], 1:], rois[counts[0] :, 1:]]
    got = RoiAverage(1 / 32, 4)(maps, boxes)
    assert torch.allclose(got, roi_align(maps, rois, 1, 1 / 32, 4, aligned=True)[:, :, 0, 0], atol=1e-5)
