"""In which form the boxes of a split are written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.data.box_forms import Form, as_edges, box_form

WIDTH, HEIGHT = 640, 480
INSIDE = [(10, 20, 300, 200), (400, 300, 630, 470), (50, 60, 90, 400), (320, 5, 400, 100), (1, 1, 639, 479)]


def form_of(boxes: list[tuple[float, ...]]) -> Form:
    return box_form(np.asarray(boxes, float).reshape(-1, 4), np.tile([[WIDTH, HEIGHT]], (len(boxes), 1)))


def of_xywh(left: float, top: float, width: float, height: float) -> tuple[float, ...]:
    """As a format of corner and size reads four numbers."""
    return left, top, left + width, top + height


def written(box: tuple[float, ...], form: Form) -> tuple[float, ...]:
    """A box (pixel edges) as a format reads it when a tool wrote another form into it."""
    left, top, right, bottom = box
    fractions = left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT
    match form:
        case "fractions":
            return fractions
        case "centres":
            x1, y1, x2, y2 = fractions
            return of_xywh((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        case "corners":
            return of_xywh(*box)
        case "sizes":
            return left, top, right - left, bottom - top
    return box


@pytest.mark.parametrize("form", ["edges", "fractions", "centres", "corners", "sizes"])
def test_boxes_that_were_written_in_another_form_are_read_as_they_were_meant(form: Form) -> None:
    boxes = [written(box, form) for box in INSIDE]
    assert form_of(boxes) == form
    assert np.allclose([as_edges((a, b, c, d), form, WIDTH, HEIGHT) for a, b, c, d in boxes], INSIDE)


@pytest.mark.parametrize(
    ("boxes", "form"),
    [
        ([], "edges"),
        ([of_xywh(0.1, 0.1, 0.5, 0.5)], "fractions"),
        ([of_xywh(0.5, 0.5, 1, 1), of_xywh(0.2, 0.2, 0.1, 0.1)], "centres"),
        ([of_xywh(40, 30, 600, 470), of_xywh(400, 300, 630, 470)], "corners"),
        ([of_xywh(5, 5, 30, 30), of_xywh(400, 300, 630, 470)], "corners"),
        ([of_xywh(400, 300, 630, 470)], "edges"),
        ([of_xywh(5, 5, 30, 30), of_xywh(600, 300, 60, 70)], "edges"),
        ([of_xywh(0, 0, 645, 485), of_xywh(300, 300, 40, 70), of_xywh(300, 300, 40, 70)], "edges"),
        ([of_xywh(30, 30, -20, -10), of_xywh(400, 30, -20, -10)], "edges"),
        ([(29, 5, 10, 25), (29, 5, 40, 25)], "edges"),
        ([of_xywh(1, 1, 1, 1), of_xywh(300, 300, 100, 100)], "edges"),
        ([of_xywh(0, 0, 1, 1), of_xywh(1, 1, 1, 1), of_xywh(3, 0, 2, 2)], "edges"),
    ],
)
def test_few_boxes(boxes: list[tuple[float, ...]], form: Form) -> None:
    assert form_of(boxes) == form


@given(
    st.lists(
        st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.02, 1), st.floats(0.02, 1)), min_size=1
    )
)
def test_sound_boxes_of_pixels_stay_as_they_are(shares: list[tuple[float, float, float, float]]) -> None:
    boxes: list[tuple[float, ...]] = [
        of_xywh(x * WIDTH, y * HEIGHT, max(2.1, w * (1 - x) * WIDTH), max(2.1, h * (1 - y) * HEIGHT))
        for x, y, w, h in shares
    ]
    assert form_of(boxes) == "edges"
