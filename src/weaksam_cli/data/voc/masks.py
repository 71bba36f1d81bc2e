"""Instance masks of VOC: a PNG an image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import masks as mask_codec

MASKS: Final = "SegmentationObject"


def read_mask(path: Path, number: int, height: int, width: int) -> bytes | None:
    """The mask of an object as compressed RLE: value k of the PNG is the k-th object of the XML, 255 is border.

    None where the image has no PNG: VOC has masks of some images alone.

    Raises:
        ValueError: there is no such mask, or the PNG is none of masks.
    """
    if not path.exists():
        return None
    values = _mask_values(path)
    if values.shape != (height, width):
        raise ValueError(
            f"{MASKS}/{path.name}: expected {width} x {height} pixels, got {values.shape[1]} x {values.shape[0]}"
        )
    mask = values == number
    if not mask.any():
        raise ValueError(f"{MASKS}/{path.name} has no pixel of it")
    return mask_codec.encode(mask[None])[0]


@lru_cache(maxsize=2)
def _mask_values(path: Path) -> NDArray[np.uint8]:
    """The PNG of an image, which is asked for once for each of its objects."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as file:
            if file.mode not in ("P", "L"):
                raise ValueError(f"{MASKS}/{path.name}: expected a palette or grey PNG, got {file.mode}")
            return np.asarray(file, dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{MASKS}/{path.name} cannot be read ({error})") from None
