"""The Segment Anything Model as a `Segmenter`: one image encoding an image, prompts in batches, bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from weaksam_cli.core import masks as rle
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.errors import UserError
from weaksam_cli.propose.batching import Batches, by_length
from weaksam_cli.propose.mask_measures import measure_low_resolution
from weaksam_cli.propose.sam_decoder import PreparedImage, SharedDecoder
from weaksam_cli.propose.sam_encoder import encode
from weaksam_cli.propose.segmenter import check_image, check_points
from weaksam_cli.propose.upsampling import MaskUpsampling

POINTS_PER_BATCH = 64
"""Prompts decoded at once on a GPU (spec 03 §2)."""

CPU_POINTS_PER_BATCH = 1
"""Prompts decoded at once on a CPU: the image tokens of more do not stay in its cache (`benchmarks/propose.py`)."""

FULL_SIZE_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""How many mask pixels are brought to full size at once: 4 MiB of logits, 256 MiB on a GPU."""

MULTIMASK, SINGLE = range(1, 4), range(1)
"""Of the decoder's four masks: the three for prompts that may mean several things, and the one for those that do not."""


@dataclass(frozen=True)
class _Encoded:
    image: PreparedImage
    upsampling: MaskUpsampling
    original_size: tuple[int, int]


@dataclass(frozen=True)
class _Wanted:
    """What is asked for: which of the decoder's masks `tokens`, from the `first` of them on, and what is kept of them."""

    tokens: range = MULTIMASK
    first: int = 0
    quality_above: float = -np.inf
    masks: bool = False


@dataclass(frozen=True)
class _Measured:
    """Measures of the k masks of b prompts, on the CPU; masks that are not wanted are empty."""

    boxes: FloatArray
    area: NDArray[np.int64]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    counts: list[list[bytes]]

    @classmethod
    def empty(cls, prompts: int, masks: int) -> _Measured:
        """No mask yet."""
        shape = (prompts, masks)
        return cls(
            np.zeros((*shape, 4), np.float32),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.float32),
            np.full(shape, np.nan, np.float32),
            [[b""] * masks for _ in range(prompts)],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[_Measured], order: NDArray[np.int64]) -> _Measured:
        """The prompts of `parts`; prompt i was decoded as `order[i]`-th."""
        counts = [item for part in parts for item in part.counts]
        return cls(
            np.concatenate([part.boxes for part in parts])[order],
            np.concatenate([part.area for part in parts])[order],
            np.concatenate([part.predicted_iou for part in parts])[order],
            np.concatenate([part.stability for part in parts])[order],
            [counts[index] for index in order],
        )

    def as_prompted(self, *, masks: bool) -> PromptedMasks:
        """As a segmenter answers."""
        counts = self.counts if masks else None
        return PromptedMasks(self.boxes, self.area, self.predicted_iou, self.stability, counts)


class SamSegmenter:
    """A `Segmenter` over a SAM of the `segment-anything` package.

    Args:
        sam: the network; see `sam_checkpoint.load_sam`. Encoder and decoder run in the dtype of their weights.
        points_per_batch: prompts that are decoded at once on a GPU; halved for good when its memory does not suffice.
        compiled: run the encoder through `torch.compile`: a minute or more for the first image, less for the others.
    """

    def __init__(self, sam: Sam, *, points_per_batch: int = POINTS_PER_BATCH, compiled: bool = False) -> None:
        self._sam = sam.eval()
        self._decoder = SharedDecoder(sam)
        self._encode: Callable[..., Tensor] = torch.compile(encode) if compiled else encode
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)
        on_cpu = sam.device.type == "cpu"
        self._batches = Batches(min(points_per_batch, CPU_POINTS_PER_BATCH) if on_cpu else points_per_batch)
        self._pixels = FULL_SIZE_PIXELS["cpu" if on_cpu else "cuda"]
        self._encoded: _Encoded | None = None
        self._encodings = 0

    @property
    def encodings(self) -> int:
        """How many images were encoded since the segmenter was made."""
        return self._encodings

    @torch.inference_mode()
    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode the image (H, W, 3), uint8 RGB; the one before is forgotten.

        Raises:
            ValueError: for another shape or dtype.
            UserError: when the device's memory does not suffice.
        """
        check_image(image)
        self._encoded = None
        resized = self._transform.apply_image(image)
        pixels = torch.as_tensor(resized, device=self._sam.device).permute(2, 0, 1).contiguous()[None]
        try:
            features = self._encode(self._sam.image_encoder, self._sam.preprocess(pixels))
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the device has not enough memory for the image encoder",
                where="propose",
                remedy="Use a smaller model (--recipe sam-vit-b), --set precision=auto, or --device cpu",
            ) from error
        self._encodings += 1
        size, kept = (image.shape[0], image.shape[1]), (resized.shape[0], resized.shape[1])
        low_size = tuple(4 * side for side in self._sam.prompt_encoder.image_embedding_size)
        upsampling = MaskUpsampling(
            (low_size[0], low_size[1]), self._sam.image_encoder.img_size, kept, size, self._sam.device
        )
        self._encoded = _Encoded(self._decoder.prepare(features), upsampling, size)

    def prompt_points(
        self,
        xy: NDArray[np.float32],
        labels: NDArray[np.int8],
        *,
        masks: bool = False,
        first_mask: bool = True,
        quality_above: float = -np.inf,
    ) -> PromptedMasks:
        """Three masks of each of n prompts of points; see `Segmenter.prompt_points`.

        Padding is taken out before decoding, since SAM would give each padded point a token of its own and answer
        differently; prompts of equal length share a batch. Masks that are not wanted are not brought to full size, and
        the first of the three is not even decoded.
        """
        check_points(xy, labels)
        wanted = _Wanted(first=0 if first_mask else 1, quality_above=quality_above, masks=masks)
        measured = [_Measured.empty(0, len(wanted.tokens))]
        order = [np.zeros(0, np.int64)]
        for rows, points, kinds in by_length(self._scaled(xy), labels):
            order.append(rows)
            measured += self._run(len(rows), partial(self._embed_points, points, kinds), wanted)
        inverse = np.argsort(np.concatenate(order), kind="stable")
        return _Measured.concatenate(measured, inverse).as_prompted(masks=masks)

    def prompt_boxes(self, boxes: FloatArray, *, masks: bool = False) -> PromptedMasks:
        """Three masks of each of n box prompts, float32 (n, 4), xyxy pixel edges."""
        return self._box_masks(boxes, _Wanted(masks=masks)).as_prompted(masks=masks)

    def single_box_masks(self, boxes: FloatArray) -> tuple[list[bytes], NDArray[np.float32]]:
        """One mask for each of n box prompts, by the token that SAM keeps for unambiguous prompts (spec 05 §9).

        Returns:
            The masks as compressed RLE and their predicted IoU, float32 (n,).
        """
        measured = self._box_masks(boxes, _Wanted(SINGLE, masks=True))
        return [item[0] for item in measured.counts], measured.predicted_iou[:, 0]

    def _box_masks(self, boxes: FloatArray, wanted: _Wanted) -> _Measured:
        corners = self._scaled(as_boxes(boxes).reshape(-1, 2, 2)).reshape(-1, 4)
        parts = [_Measured.empty(0, len(wanted.tokens))]
        parts += self._run(len(corners), partial(self._embed_boxes, corners), wanted)
        return _Measured.concatenate(parts, np.arange(len(corners)))

    def _run(self, count: int, embed: Callable[[slice], Tensor], wanted: _Wanted) -> list[_Measured]:
        return list(self._batches.run(count, lambda batch: self._decode(embed(batch), wanted)))

    def _current(self) -> _Encoded:
        if self._encoded is None:
            raise ValueError("no image is set: call set_image before prompting")
        return self._encoded

    def _scaled(self, xy: NDArray[np.float32]) -> NDArray[np.float64]:
        """Coordinates (n, p, 2) of the resized image that the network sees."""
        scaled: NDArray[np.float64] = self._transform.apply_coords(xy, self._current().original_size)
        return scaled

    @torch.inference_mode()
    def _embed_points(self, xy: NDArray[np.float64], labels: NDArray[np.int8], batch: slice) -> Tensor:
        """Prompts (n, p, 2) with labels (n, p), in the frame of the resized image, as the decoder's tokens (b, p, d)."""
        device = self._sam.device
        coordinates = torch.as_tensor(xy[batch], dtype=torch.float32, device=device)
        points = (coordinates, torch.as_tensor(labels[batch], dtype=torch.int32, device=device))
        tokens: Tensor = self._sam.prompt_encoder(points=points, boxes=None, masks=None)[0]
        return tokens

    @torch.inference_mode()
    def _embed_boxes(self, corners: NDArray[np.float64], batch: slice) -> Tensor:
        boxes = torch.as_tensor(corners[batch], dtype=torch.float32, device=self._sam.device)
        tokens: Tensor = self._sam.prompt_encoder(points=None, boxes=boxes, masks=None)[0]
        return tokens

    @torch.inference_mode()
    def _decode(self, prompts: Tensor, wanted: _Wanted) -> _Measured:
        """Decode one batch of prompts (b, p, d) and measure those masks that are wanted."""
        encoded = self._current()
        tokens = wanted.tokens[wanted.first :]
        low, quality = self._decoder.decode(encoded.image, prompts, slice(tokens.start, tokens.stop))
        low, quality = low.float(), quality.float()
        # Not `quality > ...`: a NaN is for the caller to judge.
        prompt, token = (~(quality <= wanted.quality_above)).nonzero(as_tuple=True)
        low = low[prompt, token]
        found = measure_low_resolution(
            low, encoded.upsampling, self._pixels, threshold=self._sam.mask_threshold
        )
        result = _Measured.empty(len(prompts), len(wanted.tokens))
        result.predicted_iou[:, wanted.first :] = quality.cpu().numpy()
        place = (prompt.cpu().numpy(), token.cpu().numpy() + wanted.first)
        result.boxes[place] = found.boxes.cpu().numpy()
        result.area[place] = found.area.cpu().numpy()
        result.stability[place] = found.stability.cpu().numpy()
        if wanted.masks:
            for row, index, mask in zip(*(item.tolist() for item in place), low, strict=True):
                result.counts[row][index] = self._run_lengths(mask, encoded)
        return result

    def _run_lengths(self, low: Tensor, encoded: _Encoded) -> bytes:
        """A mask (h, w) as compressed RLE of the image's size."""
        threshold = self._sam.mask_threshold
        dense = np.zeros(encoded.original_size, bool)
        window = encoded.upsampling.window_above(low[None], threshold)
        for rows, logits in encoded.upsampling.bands(low[None], window, self._pixels):
            dense[rows, window.columns] = (logits[0] > threshold).cpu().numpy()
        return rle.encode(dense[None])[0]
