"""The Segment Anything Model as a `Segmenter`: one image encoding a picture, prompts in batches, bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from weaksam_cli.propose.mask_measures import measure_logits
from weaksam_cli.propose.segmenter import PADDING, check_image, check_points
from weaksam_cli.structures import masks as rle
from weaksam_cli.structures.boxes import FloatArray, as_boxes
from weaksam_cli.structures.types import PromptedMasks

POINTS_PER_BATCH = 64
"""Prompts decoded at once (spec 03 §2)."""

FULL_SIZE_PIXELS = 16 * 1024 * 1024
"""How many mask pixels are brought to full size at once: 64 MiB of logits."""


@dataclass(frozen=True)
class _Encoded:
    features: Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]


@dataclass(frozen=True)
class _Measured:
    """Measures of some masks in a row, on the CPU."""

    boxes: FloatArray
    area: NDArray[np.int64]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    counts: list[bytes]


class SamSegmenter:
    """A `Segmenter` over a SAM of the `segment-anything` package.

    Args:
        sam: the network; see `sam_checkpoint.load_sam`.
        points_per_batch: prompts that are decoded at once; more is faster on a GPU and takes more memory.
    """

    def __init__(self, sam: Sam, *, points_per_batch: int = POINTS_PER_BATCH) -> None:
        if points_per_batch < 1:
            raise ValueError(f"points_per_batch: expected at least 1, met {points_per_batch}")
        self._sam = sam.eval()
        self._transform = ResizeLongestSide(sam.image_encoder.img_size)
        self._points_per_batch = points_per_batch
        self._encoded: _Encoded | None = None
        self._encodings = 0

    @property
    def encodings(self) -> int:
        """How many pictures were encoded since the segmenter was made."""
        return self._encodings

    @torch.inference_mode()
    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode the picture (H, W, 3), uint8 RGB; the one before is forgotten."""
        check_image(image)
        self._encoded = None
        resized = self._transform.apply_image(image)
        pixels = torch.as_tensor(resized, device=self._sam.device).permute(2, 0, 1).contiguous()[None]
        features = self._sam.image_encoder(self._sam.preprocess(pixels))
        self._encodings += 1
        height, width = image.shape[:2]
        self._encoded = _Encoded(features, (height, width), (resized.shape[0], resized.shape[1]))

    def prompt_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], *, masks: bool = False
    ) -> PromptedMasks:
        """Three masks of each of n prompts of points; see `Segmenter.prompt_points`.

        Padding is taken out before decoding, since SAM would give each padded point a token of its own and answer
        differently; prompts of equal length share a batch.
        """
        check_points(xy, labels)
        measured = self._no_masks()
        order = [np.zeros(0, np.int64)]
        for rows, points, kinds in _by_length(self._scaled(xy), labels):
            order.append(rows)
            for batch in self._batches(len(rows)):
                found = self._decode(points=(points[batch], kinds[batch]), multimask=True, masks=masks)
                measured.append(found)
        inverse = np.argsort(np.concatenate(order), kind="stable")
        return _as_prompted(measured, inverse, masks=masks)

    def prompt_boxes(self, boxes: FloatArray, *, masks: bool = False) -> PromptedMasks:
        """Three masks of each of n box prompts, float32 (n, 4), xyxy pixel edges."""
        corners = self._scaled(as_boxes(boxes).reshape(-1, 2, 2))
        measured = self._no_masks()
        for batch in self._batches(len(corners)):
            measured.append(self._decode(corners=corners[batch], multimask=True, masks=masks))
        return _as_prompted(measured, np.arange(len(corners)), masks=masks)

    def single_box_masks(self, boxes: FloatArray) -> tuple[list[bytes], NDArray[np.float32]]:
        """One mask for each of n box prompts, by the token that SAM keeps for unambiguous prompts (spec 05 §9).

        Returns:
            The masks as compressed RLE and their predicted IoU, float32 (n,).
        """
        corners = self._scaled(as_boxes(boxes).reshape(-1, 2, 2))
        measured = self._no_masks()
        for batch in self._batches(len(corners)):
            measured.append(self._decode(corners=corners[batch], multimask=False, masks=True))
        counts = [item for part in measured for item in part.counts]
        return counts, np.concatenate([part.predicted_iou for part in measured])

    def _current(self) -> _Encoded:
        if self._encoded is None:
            raise ValueError("no picture is set: call set_image before prompting")
        return self._encoded

    def _scaled(self, xy: NDArray[np.float32]) -> NDArray[np.float64]:
        """Coordinates (n, p, 2) of the resized picture that the network sees."""
        scaled: NDArray[np.float64] = self._transform.apply_coords(xy, self._current().original_size)
        return scaled

    def _batches(self, n: int) -> Iterator[slice]:
        for start in range(0, n, self._points_per_batch):
            yield slice(start, min(start + self._points_per_batch, n))

    def _no_masks(self) -> list[_Measured]:
        none = np.zeros(0, np.float32)
        return [_Measured(as_boxes([]), np.zeros(0, np.int64), none, none, [])]

    @torch.inference_mode()
    def _decode(
        self,
        *,
        points: tuple[NDArray[np.float64], NDArray[np.int8]] | None = None,
        corners: NDArray[np.float64] | None = None,
        multimask: bool,
        masks: bool,
    ) -> _Measured:
        """Decode one batch of prompts, given in the frame of the resized picture."""
        encoded = self._current()
        device = self._sam.device
        point_tensors = None
        if points is not None:
            coordinates = torch.as_tensor(points[0], dtype=torch.float32, device=device)
            point_tensors = (coordinates, torch.as_tensor(points[1], dtype=torch.int32, device=device))
        box_tensor = None
        if corners is not None:
            box_tensor = torch.as_tensor(corners.reshape(-1, 4), dtype=torch.float32, device=device)
        sparse, dense = self._sam.prompt_encoder(points=point_tensors, boxes=box_tensor, masks=None)
        low_resolution, predicted_iou = self._sam.mask_decoder(
            image_embeddings=encoded.features,
            image_pe=self._sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        return self._measure(low_resolution.flatten(0, 1), predicted_iou.flatten(), encoded, masks=masks)

    def _measure(
        self, low_resolution: Tensor, predicted_iou: Tensor, encoded: _Encoded, *, masks: bool
    ) -> _Measured:
        """Bring low-resolution logits (m, h, w) to full size a few at a time and keep only their measures."""
        height, width = encoded.original_size
        largest = max(height * width, self._sam.image_encoder.img_size**2)
        parts, counts = [], []
        for chunk in low_resolution.split(max(1, FULL_SIZE_PIXELS // largest)):
            logits = self._sam.postprocess_masks(chunk[:, None], encoded.input_size, encoded.original_size)[
                :, 0
            ]
            parts.append(measure_logits(logits, threshold=self._sam.mask_threshold))
            if masks:
                counts += rle.encode((logits > self._sam.mask_threshold).cpu().numpy())
        boxes, area, stability = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return _Measured(boxes, area, predicted_iou.float().cpu().numpy(), stability, counts)


def _by_length(
    xy: NDArray[np.float64], labels: NDArray[np.int8]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int8]]]:
    """Prompts without their padding, those of equal length together: row indexes, points (m, q, 2), labels (m, q)."""
    real = labels != PADDING
    lengths = real.sum(axis=1)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        chosen = real[rows]
        yield rows, xy[rows][chosen].reshape(-1, length, 2), labels[rows][chosen].reshape(-1, length)


def _as_prompted(parts: list[_Measured], order: NDArray[np.int64], *, masks: bool) -> PromptedMasks:
    """The measures of m masks as those of m / 3 prompts, prompt i being the one decoded as `order[i]`-th."""
    counts = [item for part in parts for item in part.counts]
    return PromptedMasks(
        np.concatenate([part.boxes for part in parts]).reshape(-1, 3, 4)[order],
        np.concatenate([part.area for part in parts]).reshape(-1, 3)[order],
        np.concatenate([part.predicted_iou for part in parts]).reshape(-1, 3)[order],
        np.concatenate([part.stability for part in parts]).reshape(-1, 3)[order],
        [counts[3 * index : 3 * index + 3] for index in order] if masks else None,
    )
