"""RoIs against their surroundings, as CASD's and C-MIL's releases pool them (spec 10a §2.5, 10b §A.3).

The detection stream sees a *frame*, the RoI without its middle, less a *context*, what lies around the RoI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.ops import roi_pool

from weaksam_cli.models.vgg16 import POOLED, STRIDE
from weaksam_cli.wsod.method import Rois
from weaksam_cli.wsod.mining import without_last_pixel

if TYPE_CHECKING:
    from weaksam_cli.wsod.detector import RegionHeads


def frame_less_context(
    heads: RegionHeads,
    rois: Rois,
    neck: Callable[[Tensor], Tensor],
    scale: float,
    factors: Tensor | None = None,
) -> Tensor:
    """Detection logits (R, K) of each RoI without a middle 1 / scale as large, less those of scale times it without the RoI.

    The layers are shared with the RoI itself, so the bias cancels. It costs fc6 and fc7 twice more. `factors` (R, 1)
    multiply the features of all.
    """
    boxes = [without_last_pixel(own.boxes) for own in rois.regions]
    middle, around = ([scaled(item, factor) for item in boxes] for factor in (1 / scale, scale))
    seen = [neck(ring_pool(rois.maps[-1], *pair)) for pair in ((boxes, middle), (around, boxes))]
    frame, context = (heads(x if factors is None else x * factors).detection_logits for x in seen)
    return frame - context


def scaled(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (n, 4) with sides `factor` times as long about their centres."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return torch.cat([centre - half, centre + half], dim=1)


def ring_pool(
    features: Tensor, outer: Sequence[Tensor], inner: Sequence[Tensor], stride: int = STRIDE
) -> Tensor:
    """Largest feature in each of 7 x 7 cells of every outer box, but what lies strictly inside the inner one; at least 0.

    Args:
        features: (B, C, h, w).
        outer, inner: for each image (R, 4), inclusive pixel indexes; their quotient by the stride is truncated.
        stride: pixels a cell.

    Returns:
        (sum of all R, C, 7, 7), the images one after the other; 0 where a cell has nothing.
    """
    counts = torch.tensor([len(item) for item in outer], device=features.device)
    images = torch.arange(len(outer), device=features.device).repeat_interleave(counts)
    cells = [(torch.cat(list(boxes)) / stride).long() for boxes in (outer, inner)]
    strips = _strips(cells[0], cells[1], (features.shape[3], features.shape[2]))
    filled = (strips[..., 2:] >= strips[..., :2]).all(dim=-1)
    _, box, y, x = filled.nonzero(as_tuple=True)
    rectangles = torch.cat([images[box, None], strips[filled]], dim=1).float()
    # Of whole cells, the operator takes exactly these.
    found = roi_pool(features.float(), rectangles, 1, 1.0).flatten(1)
    rows = ((box * POOLED + y) * POOLED + x)[:, None].expand_as(found)
    empty = found.new_zeros(len(images) * POOLED**2, found.shape[1])
    pooled = empty.scatter_reduce(0, rows, found, "amax")
    return pooled.view(len(images), POOLED, POOLED, features.shape[1]).permute(0, 3, 1, 2).to(features.dtype)


def _strips(outer: Tensor, inner: Tensor, size: tuple[int, int]) -> Tensor:
    """int64 (4, R, 7, 7, 4): what is above, below, left and right of the inner box in each cell of the outer one.

    Args:
        outer, inner: int64 (R, 4), both ends count; the border of the inner one is not inside.
        size: width and height of the map, to which cells are cut.
    """
    steps = torch.arange(POOLED, device=outer.device)
    sides = (outer[:, 2:] - outer[:, :2] + 1).clamp(min=1)[..., None]
    low = outer[:, :2, None] + steps * sides // POOLED
    high = outer[:, :2, None] - (-(steps + 1) * sides // POOLED) - 1
    low, high = low.clamp(min=0), torch.minimum(high, low.new_tensor(size)[:, None] - 1)
    x0, x1, y0, y1 = torch.broadcast_tensors(
        low[:, 0, None], high[:, 0, None], low[:, 1, :, None], high[:, 1, :, None]
    )
    left, top, right, bottom = (inner[:, side, None, None] for side in range(4))
    first, last = torch.maximum(y0, top + 1), torch.minimum(y1, bottom - 1)
    strips = (
        (x0, y0, x1, torch.minimum(y1, top)),
        (x0, torch.maximum(y0, bottom), x1, y1),
        (x0, first, torch.minimum(x1, left), last),
        (torch.maximum(x0, right), first, x1, last),
    )
    return torch.stack([torch.stack(strip, dim=-1) for strip in strips])
