"""The Segment Anything Model as a `Segmenter`: encoding an image, and prompts as tokens of its decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.propose.mask_logits import MaskUpsampling
from weaksam_cli.propose.sam.decoder import PreparedImage, SharedDecoder
from weaksam_cli.propose.sam.encoder import encode
from weaksam_cli.propose.torch_segmenter import TorchSegmenter


def set_precision(sam: Sam, dtype: torch.dtype) -> None:
    """Put encoder and decoder of `sam` into `dtype`.

    The prompt encoder stays as it is: its sines and cosines of coordinates need float32, and it costs nothing.
    """
    sam.image_encoder.to(dtype)
    sam.mask_decoder.to(dtype)


class SamSegmenter(TorchSegmenter):
    """A `Segmenter` over a SAM of the `segment-anything` package.

    Args:
        sam: the network; see `checkpoint.load_sam`. Encoder and decoder run in the dtype of their weights.
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
