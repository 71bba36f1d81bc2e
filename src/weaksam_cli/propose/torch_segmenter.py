"""What segmenters over a torch network have in common: batches, bounded memory, and what is measured of masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.core import masks as rle
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.errors import UserError
from weaksam_cli.propose.mask_logits import MaskUpsampling, measure_masks
from weaksam_cli.propose.prompting import PADDING, Precision, check_image

CPU_POINTS_PER_BATCH = 1
"""Prompts decoded at once on a CPU: the image tokens of more do not stay in its cache (`benchmarks/propose.py`)."""

FULL_SIZE_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""How many mask pixels are brought to full size at once: 4 MiB of logits, 256 MiB on a GPU."""

MULTIMASK, SINGLE = range(1, 4), range(1)
"""Of the decoder's four masks: the three for prompts that may mean several things, and the one for those that do not."""


def choose_dtype(precision: Precision, device: str) -> torch.dtype:
    """The number format for a device.

    `auto` is bfloat16 on a GPU that has it, float16 on another, float32 on a CPU.

    Raises:
        UserError: for half precision on a CPU that has to emulate it: tens of times slower, and no more exact.
    """
    on_gpu = device.startswith("cuda")
    if precision == "auto":
        if not on_gpu:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if not on_gpu and (precision == "float16" or (precision == "bfloat16" and not cpu_has_bfloat16())):
        raise UserError(
            f"this CPU has no {precision} arithmetic and would emulate it, many times slower",
            where="propose recipe, precision",
            remedy="Use --set precision=float32 (or auto), or a GPU",
        )
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def cpu_has_bfloat16() -> bool:
    """Has the CPU matrix products of bfloat16 (AVX512-BF16 or AMX)? A torch that cannot tell is taken to have none."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def _no_masks(prompts: int, tokens: range, *, masks: bool) -> PromptedMasks:
    """Empty masks, to be filled in where they are wanted."""
    shape = (prompts, len(tokens))
    return PromptedMasks(
        np.zeros((*shape, 4), np.float32),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.full(shape, np.nan, np.float32),
        [[b""] * len(tokens) for _ in range(prompts)] if masks else None,
    )


class TorchSegmenter(ABC):
    """A `Segmenter` over a network; a new one says how it encodes an image and how it decodes prompts, and that is all.

    Args:
        device: where the network is.
        points_per_batch: prompts that are decoded at once on a GPU; halved for good when its memory does not suffice.
        threshold: a mask is where its logits are above this.
    """

    def __init__(self, device: torch.device, *, points_per_batch: int, threshold: float = 0.0) -> None:
        on_cpu = device.type == "cpu"
        self._batches = Batches(CPU_POINTS_PER_BATCH if on_cpu else points_per_batch)
        self._pixels = FULL_SIZE_PIXELS["cpu" if on_cpu else "cuda"]
        self._threshold = threshold
        self._upsampling: MaskUpsampling | None = None

    @abstractmethod
    def _encode(self, image: NDArray[np.uint8]) -> MaskUpsampling:
        """Encode the image (H, W, 3), uint8 RGB, and keep what decoding needs of it.

        Returns:
            How mask logits become masks of the image's size.
        """

    @abstractmethod
    def _decode_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], masks: range
    ) -> tuple[Tensor, Tensor]:
        """Answer prompts of p points each on the image that was encoded last.

        Args:
            xy: (b, p, 2), column and row in pixels of the image.
            labels: (b, p), 1 foreground, 0 background; no padding.
            masks: which of the network's four masks, a part of `MULTIMASK` or `SINGLE`: k of them.

        Returns:
            Mask logits (b, k, h, w) at low resolution and predicted IoU (b, k).
        """

    @abstractmethod
    def _decode_boxes(self, boxes: FloatArray, masks: range) -> tuple[Tensor, Tensor]:
        """Answer prompts of a box each, (b, 4), xyxy pixel edges of the image; see `_decode_points`."""

    @torch.inference_mode()
    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode the image (H, W, 3), uint8 RGB; the one before is forgotten.

        Raises:
            ValueError: for another shape or dtype.
            UserError: when the device's memory does not suffice.
        """
        check_image(image)
        self._upsampling = None
        try:
            self._upsampling = self._encode(image)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the device has not enough memory for the image encoder",
                where="propose",
                remedy="Use a smaller model (--recipe sam-vit-b), --set precision=auto, or --device cpu",
            ) from error

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
        result = _no_masks(len(xy), MULTIMASK, masks=masks)
        tokens = MULTIMASK if first_mask else MULTIMASK[1:]
        for rows, points, kinds in by_length(xy, labels):
            self._answer(result, rows, self._decode_points, [points, kinds], tokens, quality_above)
        return result

    def prompt_boxes(
        self, boxes: FloatArray, *, masks: bool = False, multimask: bool = True
    ) -> PromptedMasks:
        """Three masks of each of n box prompts, float32 (n, 4), xyxy pixel edges.

        Without `multimask` one, by the token that SAM keeps for unambiguous prompts (spec 05 §9).
        """
        corners, tokens = as_boxes(boxes), MULTIMASK if multimask else SINGLE
        result = _no_masks(len(corners), tokens, masks=masks)
        self._answer(result, np.arange(len(corners)), self._decode_boxes, [corners], tokens)
        return result

    def _answer(
        self,
        result: PromptedMasks,
        rows: NDArray[np.int64],
        decode: Callable[..., tuple[Tensor, Tensor]],
        prompts: Sequence[NDArray[np.generic]],
        tokens: range,
        quality_above: float = -np.inf,
    ) -> None:
        """Decode prompts, each of the arrays (n, ...), batch by batch, and measure the masks that are wanted.

        They fill the n `rows` of `result`, of its columns the last, one for each of the decoder's masks `tokens`.
        """
        upsampling, first = self._upsampling, result.area.shape[1] - len(tokens)
        if upsampling is None:
            raise ValueError("no image is set: call set_image before prompting")

        @torch.inference_mode()
        def fill(batch: slice) -> None:
            low, quality = decode(*(part[batch] for part in prompts), tokens)
            result.predicted_iou[rows[batch], first:] = quality.float().cpu().numpy()
            # Not `quality > ...`: what to do with a NaN is for the caller to say.
            prompt, token = (~(quality.float() <= quality_above)).nonzero(as_tuple=True)
            wanted = low.float()[prompt, token]
            found = measure_masks(wanted, upsampling, self._pixels, self._threshold)
            place = (rows[batch][prompt.cpu().numpy()], token.cpu().numpy() + first)
            result.boxes[place] = found.boxes.cpu().numpy()
            result.area[place] = found.area.cpu().numpy()
            result.stability[place] = found.stability.cpu().numpy()
            if result.counts is not None:
                for row, column, mask in zip(*place, wanted, strict=True):
                    result.counts[row][column] = self._run_lengths(mask, upsampling)

        self._batches.run(len(rows), fill)

    def _run_lengths(self, low: Tensor, upsampling: MaskUpsampling) -> bytes:
        """A mask (h, w) as compressed RLE of the image's size."""
        dense = np.zeros(upsampling.size, bool)
        window = upsampling.window_above(low[None], self._threshold)
        for rows, logits in upsampling.bands(low[None], window, self._pixels):
            dense[rows, window.columns] = (logits[0] > self._threshold).cpu().numpy()
        return rle.encode(dense[None])[0]


def by_length(
    xy: NDArray[np.float32], labels: NDArray[np.int8]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int8]]]:
    """Prompts (n, p) without their padding, those of equal length together.

    Yields:
        Row indexes (m,), points (m, q, 2), labels (m, q).
    """
    real = labels != PADDING
    lengths = real.sum(axis=1)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        chosen = real[rows]
        yield rows, xy[rows][chosen].reshape(-1, length, 2), labels[rows][chosen].reshape(-1, length)


class Batches:
    """Runs a function over batches of prompts.

    Args:
        size: prompts a batch; halved for good whenever the device has not enough memory for a batch.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, count: int, function: Callable[[slice], None]) -> None:
        """Call the function with slices of prompts 0 to `count` - 1, in order; after a failure with part of it again.

        Raises:
            UserError: when the memory does not suffice for a single prompt.
        """
        start = 0
        while start < count:
            batch = slice(start, min(start + self.size, count))
            try:
                function(batch)
            except torch.OutOfMemoryError as error:
                if batch.stop - batch.start == 1:
                    raise UserError(
                        "the device has not enough memory to decode a single prompt",
                        where="propose",
                        remedy="Free memory on it, or use --device cpu",
                    ) from error
                self.size = (batch.stop - batch.start) // 2
                torch.cuda.empty_cache()
            else:
                start = batch.stop
