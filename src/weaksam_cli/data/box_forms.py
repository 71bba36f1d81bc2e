"""Are boxes what their format says they are? Tools write fractions for pixels, corners for sizes and sizes for corners."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["edges", "fractions", "centres", "corners", "sizes"]
FORMS: Final[dict[Form, str]] = {
    "fractions": "fractions of the image's sides",
    "centres": "fractions of the image's sides, with the centre in the place of a corner (YOLO)",
    "corners": "corners (x1, y1, x2, y2) in the place of widths and heights",
    "sizes": "widths and heights in the place of corners (x2, y2)",
}
_TOLERANCE: Final = 1.0
"""Pixels that a box may stand out of its image."""
_FEW, _MANY = 5, 20


def box_form(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> Form:
    """How the boxes of a split are to be read, judged by all of them together.

    A box is sound when it has an extent and lies in its image. Where too many are not, but nearly all are in another form,
    that form is meant; of few boxes all have to agree.

    Args:
        boxes: (n, 4), as their format reads them: xyxy pixel edges.
        sizes: (n, 2), width and height of each one's image.
    """
    count = len(boxes)
    if count == 0:
        return "edges"

    def mostly(form: Form) -> bool:
        sound = _sound(_as_edges(boxes, form, sizes), sizes).mean()
        return bool(sound > 0.95 if count >= _MANY else sound == 1)

    if boxes.min() >= -0.01 and sizes.min() > 2:
        if boxes.max() <= 1.01 and _sound(_as_edges(boxes, "fractions", sizes), sizes).any():
            return "fractions"
        if boxes.max() <= 2.02 and mostly("centres"):
            return "centres"
    stands_out = (boxes[:, 2:] > sizes + _TOLERANCE).any(axis=1)
    if count > 1 and stands_out.mean() >= 0.2 and mostly("corners"):
        return "corners"
    if count >= _FEW and _sound(boxes, sizes).mean() < 2 / 3 and mostly("sizes"):
        return "sizes"
    return "edges"


def as_edges(
    box: tuple[float, float, float, float], form: Form, width: int, height: int
) -> tuple[float, float, float, float]:
    """A box as xyxy pixel edges, read in the given form."""
    if form == "edges":
        return box
    left, top, right, bottom = _as_edges(np.asarray([box], float), form, np.asarray([[width, height]]))[0]
    return float(left), float(top), float(right), float(bottom)


def _as_edges(boxes: NDArray[np.float64], form: Form, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = boxes[:, :2], boxes[:, 2:]
    match form:
        case "fractions":
            return boxes * np.tile(sizes, 2)
        case "centres":
            half = (second - first) / 2
            return np.concatenate([first - half, first + half], axis=1) * np.tile(sizes, 2)
        case "corners":
            return np.concatenate([first, second - first], axis=1)
        case "sizes":
            return np.concatenate([first, first + second], axis=1)
    return boxes


def _sound(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    filled = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    inside = (boxes[:, :2] >= -_TOLERANCE).all(axis=1) & (boxes[:, 2:] <= sizes + _TOLERANCE).all(axis=1)
    return np.asarray(filled & inside)
