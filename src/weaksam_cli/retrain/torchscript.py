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
from weaksam_cli.retrain.detector import load_network
from weaksam_cli.retrain.settings import Inference

_EXAMPLE: Final = (96, 128)
"""Height and width of the image of noise that is traced; others take the same way through the network."""


class _Network(nn.Module):
    """detectron2's model from one resized image to plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4) in pixels of the image, scores (n,), classes int64 (n,) of an image float (3, h, w), 0 to 255."""
        with import_tracing().patch_builtin_len():
            found = self.model.inference([{"image": image}], do_postprocess=False)[0]
        return found.pred_boxes.tensor, found.scores, found.pred_classes


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
        height, width = image.shape[1], image.shape[2]
        factor = self.short_side / min(height, width)
        factor = min(factor, self.max_size / max(height, width))
        size = [max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))]
        pixels = image.flip(0) if self.bgr else image
        resized = F.interpolate(
            pixels[None].float(), size=size, mode="bilinear", align_corners=False, antialias=True
        )
        boxes, scores, classes = self.network(resized[0].round().clamp(0, 255))
        boxes = boxes * torch.tensor([width / size[1], height / size[0]], device=boxes.device).repeat(2)
        x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
        return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1), scores, classes


def scripted_bytes(path: Path, inference: Inference, class_names: Sequence[str]) -> bytes:
    """The file of a trained detector for `torch.jit.load`; test-time augmentation is left out.

    Raises:
        UserError: the file at `path` is missing, damaged, or of a model for other classes.
    """
    model, cfg = load_network(path, inference.model_copy(update={"augment": False}), class_names, "cpu")
    example = torch.rand(3, *_EXAMPLE, generator=torch.Generator().manual_seed(0)) * 255
    with warnings.catch_warnings():
        # The tracer tells of every branch that it cannot see; the example takes the usual one.
        warnings.simplefilter("ignore")
        network = torch.jit.trace(_Network(model.requires_grad_(False)), (example,), check_trace=False)
        detector = ScriptedDetector(
            network,
            class_names,
            inference.short_side,
            inference.max_size,
            bgr=cfg.INPUT.FORMAT == "BGR",
        )
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(detector), buffer)
    return buffer.getvalue()
