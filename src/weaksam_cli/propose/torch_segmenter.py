"""What segmenters over a torch network have in common: batches, bounded memory, and measures of mask logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.core import masks as rle
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.errors import UserError
from weaksam_cli.propose.mask_logits import MaskUpsampling, measure_low_resolution
from weaksam_cli.propose.prompting import Precision
from weaksam_cli.propose.segmenter import PADDING, check_image, check_points

CPU_POINTS_PER_BATCH = 1
"""Prompts decoded at once on a CPU: the image tokens of more do not stay in its cache (`benchmarks/propose.py`)."""

FULL_SIZE_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""How many mask pixels are brought to full size at once: 4 MiB of logits, 256 MiB on a GPU."""

MULTIMASK, SINGLE = range(1, 4), range(1)
"""Of the decoder's four masks: the three for prompts that may mean several things, and the one for those that do not."""

T = TypeVar("T")
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    return _DTYPES[precision]


def cpu_has_bfloat16() -> bool:
    """Has the CPU matrix products of bfloat16 (AVX512-BF16 or AMX)? A torch that cannot tell is taken to have none."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


@dataclass(frozen=True)
class _Wanted:
    """What is asked for: which of the decoder's masks `tokens`, from the `first` of them on, and what is kept of them."""

    tokens: range = MULTIMASK
    first: int = 0
    quality_above: float = -np.inf
    masks: bool = False


def _no_masks(prompts: int, masks: int) -> PromptedMasks:
    """Empty masks, to be filled in where they are wanted."""
    shape = (prompts, masks)
    return PromptedMasks(
        np.zeros((*shape, 4), np.float32),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.full(shape, np.nan, np.float32),
        [[b""] * masks for _ in range(prompts)],
    )


def _joined(parts: Sequence[PromptedMasks], order: NDArray[np.int64], *, masks: bool) -> PromptedMasks:
    """The prompts of `parts`, prompt i being the `order[i]`-th of them; with their masks or not."""
    counts = [item for part in parts for item in part.counts or ()]
    return PromptedMasks(
        np.concatenate([part.boxes for part in parts])[order],
        np.concatenate([part.area for part in parts])[order],
        np.concatenate([part.predicted_iou for part in parts])[order],
        np.concatenate([part.stability for part in parts])[order],
        [counts[index] for index in order] if masks else None,
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
        self._batches = Batches(min(points_per_batch, CPU_POINTS_PER_BATCH) if on_cpu else points_per_batch)
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
            upsampling = self._encode(image)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the device has not enough memory for the image encoder",
                where="propose",
                remedy="Use a smaller model (--recipe sam-vit-b), --set precision=auto, or --device cpu",
            ) from error
        self._upsampling = upsampling

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
        self._current()
        check_points(xy, labels)
        wanted = _Wanted(first=0 if first_mask else 1, quality_above=quality_above, masks=masks)
        measured = [_no_masks(0, len(wanted.tokens))]
        order = [np.zeros(0, np.int64)]
        for rows, points, kinds in by_length(xy, labels):
            order.append(rows)
            measured += self._run(self._decode_points, (points, kinds), wanted)
        inverse = np.argsort(np.concatenate(order), kind="stable")
        return _joined(measured, inverse, masks=masks)

    def prompt_boxes(self, boxes: FloatArray, *, masks: bool = False) -> PromptedMasks:
        """Three masks of each of n box prompts, float32 (n, 4), xyxy pixel edges."""
        return self._box_masks(boxes, _Wanted(masks=masks))

    def single_box_masks(self, boxes: FloatArray) -> tuple[list[bytes], NDArray[np.float32]]:
        """One mask for each of n box prompts, by the token that SAM keeps for unambiguous prompts (spec 05 §9).

        Returns:
            The masks as compressed RLE and their predicted IoU, float32 (n,).
        """
        measured = self._box_masks(boxes, _Wanted(SINGLE, masks=True))
        return [item[0] for item in measured.counts or ()], measured.predicted_iou[:, 0]

    def _box_masks(self, boxes: FloatArray, wanted: _Wanted) -> PromptedMasks:
        self._current()
        corners = as_boxes(boxes)
        parts = [_no_masks(0, len(wanted.tokens)), *self._run(self._decode_boxes, (corners,), wanted)]
        return _joined(parts, np.arange(len(corners)), masks=wanted.masks)

    def _run(
        self,
        decode: Callable[..., tuple[Tensor, Tensor]],
        prompts: tuple[NDArray[np.generic], ...],
        wanted: _Wanted,
    ) -> list[PromptedMasks]:
        """Decode and measure prompts, each of the arrays (n, ...), batch by batch."""

        @torch.inference_mode()
        def measured(batch: slice) -> PromptedMasks:
            low, quality = decode(*(part[batch] for part in prompts), wanted.tokens[wanted.first :])
            return self._measure(low.float(), quality.float(), wanted)

        return list(self._batches.run(len(prompts[0]), measured))

    def _current(self) -> MaskUpsampling:
        if self._upsampling is None:
            raise ValueError("no image is set: call set_image before prompting")
        return self._upsampling

    def _measure(self, low: Tensor, quality: Tensor, wanted: _Wanted) -> PromptedMasks:
        """Measure those masks of one batch, logits (b, k, h, w) and predicted IoU (b, k), that are wanted."""
        # Not `quality > ...`: a NaN is for the caller to judge.
        prompt, token = (~(quality <= wanted.quality_above)).nonzero(as_tuple=True)
        result = _no_masks(len(low), len(wanted.tokens))
        low = low[prompt, token]
        found = measure_low_resolution(low, self._current(), self._pixels, threshold=self._threshold)
        result.predicted_iou[:, wanted.first :] = quality.cpu().numpy()
        place = (prompt.cpu().numpy(), token.cpu().numpy() + wanted.first)
        result.boxes[place] = found.boxes.cpu().numpy()
        result.area[place] = found.area.cpu().numpy()
        result.stability[place] = found.stability.cpu().numpy()
        if result.counts is not None and wanted.masks:
            for row, index, mask in zip(*(item.tolist() for item in place), low, strict=True):
                result.counts[row][index] = self._run_lengths(mask)
        return result

    def _run_lengths(self, low: Tensor) -> bytes:
        """A mask (h, w) as compressed RLE of the image's size."""
        upsampling = self._current()
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

    def run(self, count: int, function: Callable[[slice], T]) -> Iterator[T]:
        """The function's results over prompts 0 to `count` - 1, in order.

        Raises:
            UserError: when the memory does not suffice for a single prompt.
        """
        start = 0
        while start < count:
            batch = slice(start, min(start + self.size, count))
            try:
                result = function(batch)
            except torch.OutOfMemoryError as error:
                if batch.stop - batch.start == 1:
                    raise UserError(
                        "the device has not enough memory to decode a single prompt",
                        where="propose",
                        remedy="Free memory on it, or use --device cpu",
                    ) from error
                self.size = (batch.stop - batch.start) // 2
                torch.cuda.empty_cache()
                continue
            yield result
            start = batch.stop
