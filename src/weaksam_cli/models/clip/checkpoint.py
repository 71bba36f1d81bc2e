"""CLIP with a vision transformer from the official file to a network of `open_clip`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import mismatches, read_checkpoint, shapes_of

_HEAD_WIDTH: Final = 64
"""Of every published CLIP transformer; the file does not say how many heads there are."""
_REMEDY: Final = (
    "Use ViT-B-16.pt as OpenAI publishes it (`weaksam weights`), or a state dict with its key names"
)


def load_clip(checkpoint: Path, *, device: torch.device | str = "cpu") -> Any:
    """The network, frozen, in evaluation mode, in float32.

    Args:
        checkpoint: the official TorchScript archive, or a plain state dict or safetensors file with its key names.
        device: where it shall live.

    Returns:
        An `open_clip.CLIP` with QuickGELU. Its size is read from the shapes, as the official loader does.

    Raises:
        UserError: a missing, damaged or foreign file.
    """
    state = read_checkpoint(checkpoint, remedy=_REMEDY).tensors
    network = build_clip(state, where=str(checkpoint))
    return network.to(device=device)


def build_clip(state: Mapping[str, Tensor], *, where: str) -> Any:
    """The network that the tensors are of, with them in it; see `load_clip`.

    Raises:
        UserError: tensors are missing, or their shapes do not belong together.
    """
    from open_clip import CLIP

    try:
        sizes = _sizes(state)
    except (KeyError, IndexError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"not a CLIP with a vision transformer: {reason}", where=where, remedy=_REMEDY
        ) from error
    # Without memory of its own, the network costs no random initialisation.
    with torch.device("meta"):
        network = CLIP(**sizes, quick_gelu=True)
    wanted = network.state_dict()
    # A TorchScript archive does not tell weights from other tensors (masks).
    complaints = mismatches(shapes_of(network), state, more_allowed=True)
    if complaints:
        raise UserError("; ".join(complaints), where=where, remedy=_REMEDY)
    network.load_state_dict({key: state[key].to(torch.float32) for key in wanted}, assign=True)
    # The mask is no part of the state dict, so it has to be made where the network got its memory.
    length = network.context_length
    network.attn_mask = torch.full((length, length), float("-inf")).triu_(1)
    network.requires_grad_(False)
    return network.eval()


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    patches = state["visual.conv1.weight"]
    width, text_width = patches.shape[0], state["ln_final.weight"].shape[0]
    layers, text_layers = _count_blocks(state, "visual.transformer."), _count_blocks(state, "transformer.")
    if width % _HEAD_WIDTH or text_width % _HEAD_WIDTH or not layers or not text_layers:
        raise ValueError(
            f"expected widths in multiples of {_HEAD_WIDTH} and at least one block, "
            f"got {width} and {text_width}, {layers} and {text_layers}"
        )
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": CLIPVisionCfg(
            layers=layers,
            width=width,
            head_width=_HEAD_WIDTH,
            patch_size=patches.shape[-1],
            image_size=grid * patches.shape[-1],
        ),
        "text_cfg": CLIPTextCfg(
            context_length=state["positional_embedding"].shape[0],
            vocab_size=state["token_embedding.weight"].shape[0],
            width=text_width,
            heads=text_width // _HEAD_WIDTH,
            layers=text_layers,
        ),
    }


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return sum(key.startswith(prefix) and key.endswith(".attn.in_proj_weight") for key in state)
