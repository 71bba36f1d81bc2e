"""A network of `transformers` as a `Segmenter`: SAM, SAM-HQ, SAM 2 and SAM 3 differ in how an image is brought to size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.names import first_few
from weaksam_cli.errors import UserError
from weaksam_cli.propose.hf_sam import REMEDY
from weaksam_cli.propose.mask_logits import MaskUpsampling
from weaksam_cli.propose.torch_segmenter import SINGLE, TorchSegmenter

LOGITS_A_CELL = 4
"""Mask logits along a side for each cell of the image embedding, in all of these networks."""


def load_network(folder: Path) -> tuple[Any, Any]:
    """The network of a folder and its image processor; nothing is downloaded, no code of the folder is run.

    Raises:
        UserError: `transformers` is not installed, or the folder does not hold a network that it can prompt.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration
    except ImportError as error:
        raise UserError(
            "transformers is not installed",
            where="propose recipe, method hf_sam",
            remedy="pip install 'weaksam-cli[hf]'",
        ) from error
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoImageProcessor.from_pretrained(folder, **local)
        model, report = AutoModelForMaskGeneration.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local
        )
    except Exception as error:  # foreign files raise errors of any type
        text = " ".join(str(error).split())
        raise UserError(
            f"not a folder of a promptable segmenter: {text}", where=str(folder), remedy=REMEDY
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        text = f"{len(missing)} tensors are missing: {first_few(missing, 3)}"
        raise UserError(text, where=str(folder), remedy=REMEDY)
    return model.eval(), processor


class HfSegmenter(TorchSegmenter):
    """A `Segmenter` over a mask generation network of `transformers`.

    Args:
        model: the network, float32, on its device.
        processor: its image processor.
        points_per_batch: see `TorchSegmenter`.
        dtype: number format that it computes in, by autocast.
    """

    def __init__(
        self, model: Any, processor: Any, *, points_per_batch: int = 64, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(model.device, points_per_batch=points_per_batch)
        self._model = model
        self._processor = processor
        self._autocast = torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32)
        self._embeddings: dict[str, Any] = {}
        self._scale: Tensor

    def _encode(self, image: NDArray[np.uint8]) -> MaskUpsampling:
        prepared = self._processor(images=image, return_tensors="pt")
        pixels = prepared["pixel_values"].to(self._model.device)
        height, width = (int(side) for side in pixels.shape[-2:])
        # SAM and SAM-HQ keep the proportions and fill up to a square; SAM 2 and 3 stretch the image to it.
        kept = tuple(int(side) for side in prepared.get("reshaped_input_sizes", [(height, width)])[0])
        with self._autocast:
            found = self._model.get_image_embeddings(pixels)
        self._embeddings = {"image_embeddings": found}
        if isinstance(found, tuple):
            self._embeddings = {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        coarsest = found if isinstance(found, Tensor) else found[0 if isinstance(found, tuple) else -1]
        size = (image.shape[0], image.shape[1])
        self._scale = torch.tensor([kept[1] / size[1], kept[0] / size[0]], device=pixels.device)
        low = tuple(LOGITS_A_CELL * int(side) for side in coarsest.shape[-2:])
        padded = kept != (height, width)
        # Without padding the published code brings logits to the size of the image in one step.
        network, kept = (height, kept) if padded else (low[0], low)
        return MaskUpsampling((low[0], low[1]), network, (kept[0], kept[1]), size, pixels.device)

    def _decode_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], masks: range
    ) -> tuple[Tensor, Tensor]:
        kinds = torch.as_tensor(labels, dtype=torch.int32, device=self._model.device)[None]
        return self._decode(masks, input_points=self._scaled(xy), input_labels=kinds)

    def _decode_boxes(self, boxes: FloatArray, masks: range) -> tuple[Tensor, Tensor]:
        corners = self._scaled(boxes.reshape(-1, 2, 2)).flatten(2)
        return self._decode(masks, input_boxes=corners)

    def _scaled(self, xy: NDArray[np.float32]) -> Tensor:
        """Coordinates (1, b, p, 2) of the resized image that the network sees."""
        return (torch.as_tensor(xy, dtype=torch.float32, device=self._model.device) * self._scale)[None]

    def _decode(self, masks: range, **prompts: Tensor) -> tuple[Tensor, Tensor]:
        multimask = masks.start not in SINGLE
        with self._autocast:
            answer = self._model(**self._embeddings, **prompts, multimask_output=multimask)
        # Of several masks the network leaves out the one for prompts that mean one thing.
        some = slice(masks.start - multimask, masks.stop - multimask)
        return answer.pred_masks[0][:, some], answer.iou_scores[0][:, some]
