"""Masks of a whole image, as networks draw them that have no boxes: brought to the image's size a few at a time.

Mask2Former's way to instances (Cheng et al. 2022): a mask is where its logit is positive, a score is the probability of the
class times the mean probability of the mask's own pixels, a box is the tight one around the mask.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.structures import Boxes, Instances  # noqa: E402

STRIDE: Final = 4
"""Pixels of the network's image for each cell of its logits."""


def drawn_at_size(
    logits: Tensor, shown: tuple[int, int], size: tuple[int, int], most_pixels: int
) -> tuple[list[bytes], Tensor]:
    """Masks at the size of an image.

    Args:
        logits: float (n, h, w), of the image as the network saw it, padded below and to the right.
        shown: height and width of that image without the padding.
        size: height and width of the image itself.
        most_pixels: of dense masks in memory, unless a single one has more.

    Returns:
        Compressed RLE strings, and the mean probability (n,) of each mask's pixels, 0 for an empty mask.
    """
    at_once = max(most_pixels // (size[0] * size[1]), 1)
    masks: list[bytes] = []
    certainty = [logits.new_zeros(0)]
    for part in logits.split(at_once) if len(logits) else ():
        padded = F.interpolate(part[:, None], scale_factor=STRIDE, mode="bilinear", align_corners=False)
        image = padded[:, :, : shown[0], : shown[1]]
        values = F.interpolate(image, size, mode="bilinear", align_corners=False)[:, 0]
        inside = values > 0
        masks += mask_codec.encode(inside.cpu().numpy())
        sums = (values.sigmoid() * inside).sum((1, 2))
        certainty.append(sums / inside.sum((1, 2)).clamp(min=1))
    return masks, torch.cat(certainty)


def with_drawn_masks(
    found: Any, size: tuple[int, int], most_pixels: int, score_threshold: float, nms: float
) -> Instances:
    """Instances of the image itself: `pred_boxes`, `scores`, `pred_classes`, and `run_lengths`, a list of RLE strings.

    Args:
        found: instances of the image as the network saw it, with `scores` of classes, `pred_classes` and `mask_logits`.
        size: height and width of the image itself.
        most_pixels: see `drawn_at_size`.
        score_threshold: instances at or below are left out, and empty masks.
        nms: IoU of boxes above which the lower of two instances of a class is left out; 1 leaves none out.
    """
    masks, certainty = drawn_at_size(found.mask_logits, found.image_size, size, most_pixels)
    scores = (found.scores * certainty).cpu()
    boxes = torch.from_numpy(mask_codec.tight_boxes(masks, *size))
    classes = found.pred_classes.cpu()
    kept = ((boxes[:, 2] > boxes[:, 0]) & (scores > score_threshold)).nonzero()[:, 0]
    kept = kept[batched_nms(boxes[kept], scores[kept], classes[kept], nms)]
    instances = Instances(
        size, pred_boxes=Boxes(boxes[kept]), scores=scores[kept], pred_classes=classes[kept]
    )
    instances.run_lengths = [masks[index] for index in kept.tolist()]
    return instances
