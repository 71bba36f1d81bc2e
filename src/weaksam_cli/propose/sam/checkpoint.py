"""Official SAM checkpoints to networks of the `segment-anything` package; what does not fit is told key by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import mismatches, read_checkpoint, shapes_of

SamVariant = Literal["vit_h", "vit_l", "vit_b"]

ENCODER_WIDTHS: Final[Mapping[int, SamVariant]] = {1280: "vit_h", 1024: "vit_l", 768: "vit_b"}
"""The width of the image encoder tells the variants apart (spec 03 §1)."""

_WIDTH_KEY: Final = "image_encoder.pos_embed"
_REMEDY: Final = (
    "Use a checkpoint published for segment-anything, and check its SHA-256 with `weaksam weights`."
)


def load_sam(variant: SamVariant, checkpoint: Path, *, device: torch.device | str = "cpu") -> Sam:
    """The network `variant` with the weights of `checkpoint`, frozen, in evaluation mode, on `device`.

    Raises:
        UserError: for an unknown variant, and a file that is missing, damaged, of another kind or another variant.
    """
    if variant not in get_args(SamVariant):
        raise UserError(
            f"no SAM variant {variant!r}", remedy=f"Use one of {', '.join(get_args(SamVariant))}."
        )
    state = read_checkpoint(checkpoint, remedy=_REMEDY).tensors
    # Without memory of its own, the network costs no random initialisation of up to 636 million numbers.
    with torch.device("meta"):
        sam = sam_model_registry[variant]()
    load_weights(sam, state, where=str(checkpoint))
    return sam.to(device=device, dtype=torch.float32)


def load_weights(sam: Sam, state: Mapping[str, Tensor], *, where: str) -> None:
    """Give `sam` the tensors of `state`, every one of them, then freeze it.

    Raises:
        UserError: when keys are missing or unexpected or shapes differ: how many, and the first few.
    """
    complaints = mismatches(shapes_of(sam), state)
    if complaints:
        raise UserError("; ".join(complaints), where=where, remedy=_remedy(state))
    sam.load_state_dict(dict(state), assign=True)
    sam.requires_grad_(False)
    sam.eval()


def _remedy(state: Mapping[str, Tensor]) -> str:
    width = state[_WIDTH_KEY].shape[-1] if _WIDTH_KEY in state and state[_WIDTH_KEY].ndim else 0
    if width in ENCODER_WIDTHS:
        return (
            f"The image encoder's width of {width} is that of {ENCODER_WIDTHS[width]}: is the variant right?"
        )
    return _REMEDY
