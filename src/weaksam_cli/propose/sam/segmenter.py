"""The Segment Anything Model as a `Segmenter`: loading a checkpoint, encoding an image, and prompts as decoder tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import mismatches, read_checkpoint, shapes_of
from weaksam_cli.propose.mask_logits import MaskUpsampling
from weaksam_cli.propose.sam import SamVariant
from weaksam_cli.propose.sam.decoder import PreparedImage, SharedDecoder
from weaksam_cli.propose.sam.encoder import encode
from weaksam_cli.propose.torch_segmenter import TorchSegmenter

ENCODER_WIDTHS: Final[Mapping[int, SamVariant]] = {1280: "vit_h", 1024: "vit_l", 768: "vit_b"}
"""The width of the image encoder tells the variants apart (spec 03 §1)."""

_WIDTH_KEY: Final = "image_encoder.pos_embed"
_REMEDY: Final = (
    "Use a checkpoint published for segment-anything, and check its SHA-256 with `weaksam weights`."
)


def load_sam(variant: SamVariant, checkpoint: Path, *, device: torch.device | str = "cpu") -> Sam:
    """The network `variant` with the weights of `checkpoint`, frozen, in evaluation mode, on `device`.

    Raises:
        UserError: for a file that is missing, damaged, of another kind or another variant.
    """
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


def set_precision(sam: Sam, dtype: torch.dtype) -> None:
    """Put encoder and decoder of `sam` into `dtype`.

    The prompt encoder stays as it is: its sines and cosines of coordinates need float32, and it costs nothing.
    """
    sam.image_encoder.to(dtype)
    sam.mask_decoder.to(dtype)


class SamSegmenter(TorchSegmenter):
    """A `Segmenter` over a SAM of the `segment-anything` package.

    Args:
        sam: the network; see `load_sam`. Encoder and decoder run in the dtype of their weights.
        points_per_batch: see `TorchSegmenter`.
        compiled: run the encoder through `torch.compile`: a minute or more for the first image, less for the others.
    """

    def __init__(self, sam: Sam, *, points_per_batch: int = 64, compiled: bool = False) -> None:
        super().__init__(sam.device, points_per_batch=points_per_batch, threshold=sam.mask_threshold)
        self._sam = sam.eval()
        self._decoder = SharedDecoder(sam)
        self._encoder: Callable[..., Tensor] = torch.compile(encode) if compiled else encode
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)
        self._image: PreparedImage
        self._size: tuple[int, int]

    def _encode(self, image: NDArray[np.uint8]) -> MaskUpsampling:
        resized = self._transform.apply_image(image)
        pixels = torch.as_tensor(resized, device=self._sam.device).permute(2, 0, 1).contiguous()[None]
        features = self._encoder(self._sam.image_encoder, self._sam.preprocess(pixels))
        self._image = self._decoder.prepare(features)
        self._size = (image.shape[0], image.shape[1])
        height, width = (4 * side for side in self._sam.prompt_encoder.image_embedding_size)
        kept = (resized.shape[0], resized.shape[1])
        side = self._sam.image_encoder.img_size
        return MaskUpsampling((height, width), side, kept, self._size, self._sam.device)

    def _decode_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], masks: range
    ) -> tuple[Tensor, Tensor]:
        kinds = torch.as_tensor(labels, dtype=torch.int32, device=self._sam.device)
        return self._decode(masks, points=(self._scaled(xy), kinds), boxes=None)

    def _decode_boxes(self, boxes: FloatArray, masks: range) -> tuple[Tensor, Tensor]:
        return self._decode(masks, points=None, boxes=self._scaled(boxes.reshape(-1, 2, 2)).flatten(1))

    def _scaled(self, xy: NDArray[np.float32]) -> Tensor:
        """Coordinates (b, p, 2) of the resized image that the network sees."""
        scaled = self._transform.apply_coords(xy, self._size)
        return torch.as_tensor(scaled, dtype=torch.float32, device=self._sam.device)

    def _decode(self, masks: range, **prompts: Any) -> tuple[Tensor, Tensor]:
        tokens = self._sam.prompt_encoder(masks=None, **prompts)[0]
        return self._decoder.decode(self._image, tokens, slice(masks.start, masks.stop))
