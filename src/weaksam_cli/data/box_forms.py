"""Are boxes what their format says they are? Tools write fractions for pixels, corners for sizes and sizes for corners."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["edges", "fractions", "corners", "sizes"]
FORMS: Final[dict[Form, str]] = {
    "fractions": "fractions of the image's sides",
    "corners": "corners (x1, y1, x2, y2) in the place of widths and heights",
    "sizes": "widths and heights in the place of corners (x2, y2)",
}
_TOLERANCE: Final = 1.0
"""Pixels that a box may stand out of its image."""
_FEW: Final = 5


def box_form(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> Form:
    """How the boxes of a split are to be read, judged by all of them together.

    A box is sound when it has an extent and lies in its image. Where most are not, but nearly all are in another form, that
    form is meant; a few boxes decide only when all of them agree.

    Args:
        boxes: (n, 4), as their format reads them: xyxy pixel edges.
        sizes: (n, 2), width and height of each one's image.
    """
    if len(boxes) == 0:
        return "edges"
    if (
        (boxes >= -0.01).all()
        and (boxes <= 1.01).all()
        and (sizes > 2).all()
        and _sound(boxes * np.tile(sizes, 2), sizes).any()
    ):
        return "fractions"
    bad = 1 - _sound(boxes, sizes).mean()
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    if (bad == 1 and len(boxes) > 1) or (bad > 0.5 and len(boxes) >= _FEW):
        stands_out = (boxes[:, 2:] > sizes + _TOLERANCE).any(axis=1).mean()
        if stands_out > 0.5 and _sound(corners, sizes).mean() > 0.95:
            return "corners"
    wide = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    if bad > 1 / 3 and len(boxes) >= _FEW and _sound(wide, sizes).mean() > 0.95:
        return "sizes"
    return "edges"


def as_edges(
    box: tuple[float, float, float, float], form: Form, width: int, height: int
) -> tuple[float, float, float, float]:
    """A box as xyxy pixel edges, read in the given form."""
    left, top, right, bottom = box
    match form:
        case "fractions":
            return left * width, top * height, right * width, bottom * height
        case "corners":
            return left, top, right - left, bottom - top
        case "sizes":
            return left, top, left + right, top + bottom
    return box


def _sound(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    filled = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    inside = (boxes[:, :2] >= -_TOLERANCE).all(axis=1) & (boxes[:, 2:] <= sizes + _TOLERANCE).all(axis=1)
    return np.asarray(filled & inside)
