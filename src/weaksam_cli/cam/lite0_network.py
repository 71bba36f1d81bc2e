"""The files that hold the embedded classifier: its head, and its backbone where that was fine-tuned."""

from __future__ import annotations

from pathlib import Path

import torch

from weaksam_cli.cam.lite0_head import LinearHead
from weaksam_cli.errors import UserError
from weaksam_cli.models.lite0 import Lite0, load_lite0
from weaksam_cli.training.checkpoint import read_metadata, read_tensors, tensors_bytes


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
