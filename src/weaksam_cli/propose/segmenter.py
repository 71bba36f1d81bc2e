"""What `propose` and `pgt` ask of a promptable segmenter, SAM or not."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import PromptedMasks

FOREGROUND: Final = 1
BACKGROUND: Final = 0
PADDING: Final = -1
"""Labels of point prompts."""


@runtime_checkable
class Segmenter(Protocol):
    """Answers point and box prompts on one image at a time with three nested masks each."""

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode the image (H, W, 3), uint8 RGB, that the next prompts are about.

        Raises:
            ValueError: for another shape or dtype.
        """
        ...

    def prompt_points(
        self,
        xy: NDArray[np.float32],
        labels: NDArray[np.int8],
        *,
        masks: bool = False,
        first_mask: bool = True,
        quality_above: float = -np.inf,
    ) -> PromptedMasks:
        """Masks of n prompts of up to p points each.

        A segmenter may save itself the masks that are not wanted, and answer with empty ones (area 0) in their place.

        Args:
            xy: float32 (n, p, 2), column and row in pixels of the image; a peak at column 3 is 3.0.
            labels: int8 (n, p): 1 foreground, one at least, 0 background, -1 padding. Padding fills prompts of fewer points
                up to p and has no influence on the answer.
            masks: also return the masks as compressed RLE.
            first_mask: is the first of the three masks wanted?
            quality_above: masks whose predicted IoU is not above this are not wanted.

        Raises:
            ValueError: no image set.
        """
        ...

    def prompt_boxes(self, boxes: FloatArray, *, masks: bool = False) -> PromptedMasks:
        """Masks of n box prompts, float32 (n, 4), xyxy pixel edges.

        Raises:
            ValueError: for another shape, or no image set.
        """
        ...


def check_image(image: NDArray[np.generic]) -> None:
    """Refuse what is not uint8 (H, W, 3) with at least one pixel.

    Raises:
        ValueError: naming the shape and dtype that were given.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
