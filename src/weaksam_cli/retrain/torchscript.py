"""A retrained detector as one TorchScript file, which runs with torch and torchvision alone.

detectron2's network is traced, so what an image's size or its number of boxes decides has to stay a tensor; the resizing
around it is scripted. It resizes with torch in place of Pillow, whose rounding differs, so scores differ by up to 0.02.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_tracing
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.detector import load_network
from weaksam_cli.retrain.settings import Inference

_EXAMPLE: Final = (96, 128)
"""Height and width of the image of noise that is traced; others take the same way through the network."""


class _Network(nn.Module):
    """detectron2's model from one resized image to plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Boxes (n, 4) in pixels of the image, scores (n,), classes int64 (n,) of an image float (3, h, w), 0 to 255.

        Where the model draws masks: their probabilities, too, (n, 1, m, m) over the boxes.
        """
        with import_tracing().patch_builtin_len():
            found = self.model.inference([{"image": image}], do_postprocess=False)[0]
        plain = found.pred_boxes.tensor, found.scores, found.pred_classes
        return (*plain, found.pred_masks) if found.has("pred_masks") else plain


def _resized(image: Tensor, short_side: int, max_size: int, bgr: bool) -> Tensor:
    """The image uint8 RGB (3, H, W) as the network is shown it: float (3, h, w)."""
    height, width = image.shape[1], image.shape[2]
    factor = short_side / min(height, width)
    factor = min(factor, max_size / max(height, width))
    size = [max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))]
    pixels = image.flip(0) if bgr else image
    if pixels.is_cuda:  # torch has Pillow's own arithmetic, of whole numbers, for the processor alone
        pixels = pixels.float()
    resized = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].float().round().clamp(0, 255)


def _in_image(boxes: Tensor, image: Tensor, resized: Tensor) -> Tensor:
    """Boxes (n, 4) of the resized image in pixels of the image, cut to it."""
    height, width = image.shape[1], image.shape[2]
    factor = [width / resized.shape[2], height / resized.shape[1]]
    boxes = boxes * torch.tensor(factor, device=boxes.device).repeat(2)
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


def _pasted(probabilities: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks bool (n, height, width) of probabilities (n, 1, m, m) over boxes (n, 4); see `detection.pasted`."""
    masks = torch.zeros((boxes.shape[0], height, width), dtype=torch.bool, device=boxes.device)
    for index in range(boxes.shape[0]):
        left, top, right, bottom = boxes[index].unbind()
        up, down = int(top), min(int(bottom) + 1, height)
        first, end = int(left), min(int(right) + 1, width)
        y = (torch.arange(up, down, device=boxes.device) + 0.5 - top) / (bottom - top) * 2 - 1
        x = (torch.arange(first, end, device=boxes.device) + 0.5 - left) / (right - left) * 2 - 1
        grid = torch.stack([x[None].expand(down - up, -1), y[:, None].expand(-1, end - first)], dim=2)
        values = F.grid_sample(probabilities[index][None], grid[None], align_corners=False)[0, 0]
        masks[index, up:down, first:end] = values >= 0.5
    return masks


class ScriptedDetector(nn.Module):
    """What the file holds: from an image uint8 RGB (3, H, W) to boxes, scores and classes, best first.

    Attributes:
        class_names: a class is its place here.
    """

    def __init__(
        self, network: Any, class_names: Sequence[str], short_side: int, max_size: int, *, bgr: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names: list[str] = list(class_names)
        self.short_side, self.max_size, self.bgr = short_side, max_size, bgr

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes float (n, 4), xyxy in pixels of the image, cut to it; scores float (n,); classes int64 (n,)."""
        resized = _resized(image, self.short_side, self.max_size, self.bgr)
        boxes, scores, classes = self.network(resized)
        return _in_image(boxes, image, resized), scores, classes


class ScriptedSegmenter(ScriptedDetector):
    """The same, and a mask for each box."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        """As of `ScriptedDetector`, and masks bool (n, H, W)."""
        resized = _resized(image, self.short_side, self.max_size, self.bgr)
        boxes, scores, classes, probabilities = self.network(resized)
        boxes = _in_image(boxes, image, resized)
        return boxes, scores, classes, _pasted(probabilities, boxes, image.shape[1], image.shape[2])


def scripted_bytes(path: Path, inference: Inference, class_names: Sequence[str]) -> bytes:
    """The file of a trained detector for `torch.jit.load`; test-time augmentation is left out.

    Raises:
        UserError: the file at `path` is missing, damaged, of a model for other classes, or of one that cannot be traced.
    """
    model, cfg = load_network(path, inference.model_copy(update={"augment": False}), class_names, "cpu")
    if cfg.MODEL.METHOD.NAME:
        what = f"is a detector of {cfg.MODEL.METHOD.NAME}, whose layers fix the size of an image when they are traced"
        remedy = "Detect with weaksam predict, or export a detector of faster_rcnn or mask_rcnn"
        raise UserError(what, where=str(path), remedy=remedy)
    example = torch.rand(3, *_EXAMPLE, generator=torch.Generator().manual_seed(0)) * 255
    with warnings.catch_warnings():
        # The tracer tells of every branch that it cannot see; the example takes the usual one.
        warnings.simplefilter("ignore")
        network = torch.jit.trace(_Network(model.requires_grad_(False)), (example,), check_trace=False)
        kind = ScriptedSegmenter if cfg.MODEL.MASK_ON else ScriptedDetector
        detector = kind(
            network,
            class_names,
            inference.short_side,
            inference.max_size,
            bgr=cfg.INPUT.FORMAT == "BGR",
        )
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(detector), buffer)
    return buffer.getvalue()
