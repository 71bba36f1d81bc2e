"""The embedded classifier: its views of a picture, and the files that hold its head and its fine-tuned backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.backbones.lite0 import Lite0, load_lite0, preprocess
from weaksam_cli.cam.lite0_head import LinearHead
from weaksam_cli.detectron.checkpoint import read_metadata, read_tensors, tensors_bytes
from weaksam_cli.errors import UserError


def resize_to_short_side(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with its shorter side at `short_side`: areas when it shrinks, bicubic when it grows."""
    import cv2

    height, width = image.shape[:2]
    factor = short_side / min(height, width)
    # A strip of extreme shape is not blown up along its long side beyond what any photograph needs.
    factor = min(factor, 8 * short_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


@dataclass(frozen=True)
class ViewFeatures:
    """Maps of a picture and of its mirror image.

    Attributes:
        last: float32 (2, 1280, h, w), the backbone's last map.
        middle: float32 (2, 112, h', w'), the map of stride 16.
    """

    last: NDArray[np.float32]
    middle: NDArray[np.float32]


@torch.inference_mode()
def view_features(backbone: Lite0, image: NDArray[np.uint8], short_side: int) -> ViewFeatures:
    """Features of a picture uint8 RGB (H, W, 3) at one size, plain and mirrored."""
    resized = resize_to_short_side(image, short_side)
    views = preprocess(np.stack([resized, resized[:, ::-1]]))
    maps = backbone.pyramid(views)
    return ViewFeatures(backbone.head(maps["stride32"]).numpy(), maps["stride16"].numpy())


def pooled_views(backbone: Lite0, image: NDArray[np.uint8], short_side: int) -> NDArray[np.float32]:
    """Globally averaged features (2, 1280) of a picture and its mirror image."""
    means: NDArray[np.float32] = view_features(backbone, image, short_side).last.mean(axis=(2, 3))
    return means


def head_bytes(head: LinearHead, class_names: list[str]) -> bytes:
    """The head as a safetensors file."""
    tensors = {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
    return tensors_bytes(tensors, {"class_names": class_names})


def load_head(path: Path, class_names: list[str]) -> LinearHead:
    """The head of a file of `head_bytes`.

    Raises:
        UserError: a damaged file, or one that was trained for other classes.
    """
    trained_for = read_metadata(path).get("class_names")
    if trained_for != class_names:
        raise UserError(
            f"was trained for the classes {trained_for}, the dataset has {class_names}",
            where=str(path),
            remedy="Run `weaksam cam --overwrite` on this dataset",
        )
    tensors = read_tensors(path)
    return LinearHead(tensors["weight"].numpy(), tensors["bias"].numpy())


def backbone_bytes(backbone: Lite0) -> bytes:
    """A fine-tuned backbone as a safetensors file."""
    return tensors_bytes(backbone.state_dict(), {})


def load_backbone(path: Path) -> Lite0:
    """The backbone of a file of `backbone_bytes`, in evaluation mode."""
    backbone = load_lite0()
    backbone.load_state_dict(read_tensors(path))
    return backbone.eval()
