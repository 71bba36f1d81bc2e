"""Pictures: labels keep clear of each other and within the image, whatever the boxes and names are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.core import masks
from weaksam_cli.core.drawing import Canvas, colour, draw_detections, letters_are_missing, printable, sheet
from weaksam_cli.core.types import Detections

GREY = np.full((240, 320, 3), 128, np.uint8)


def tags(boxes: Sequence[tuple[float, ...]], names: list[str]) -> Canvas:
    canvas = Canvas(GREY)
    for index, (box, name) in enumerate(zip(boxes, names, strict=True)):
        canvas.label(np.asarray(box, np.float32), name, colour(index))
    return canvas


def test_labels_of_equal_boxes_do_not_collide() -> None:
    places = [tag.place for tag in tags([(40, 60, 220, 200)] * 7, ["dining table 0.91"] * 7).tags]
    for one, other in itertools.combinations(places, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@settings(max_examples=25)
@given(
    st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 4), min_size=1, max_size=4),
    st.lists(st.text(max_size=80), min_size=4, max_size=4),
)
def test_labels_lie_within_the_image(boxes: list[tuple[float, ...]], names: list[str]) -> None:
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    canvas = tags(ordered, names[: len(boxes)])
    for box, tag in zip(ordered, canvas.tags, strict=True):
        canvas.box(np.asarray(box, np.float32), tag.paint)
        left, top, right, bottom = tag.place
        assert 0 <= left < right < 427 and 0 <= top < bottom < 320
    assert canvas.pixels().shape == (320, 427, 3)


def test_a_long_name_keeps_both_ends_and_the_score() -> None:
    (tag,) = tags([(0, 0, 320, 240)], ["a name that is " + "very " * 30 + "long 0.57"]).tags
    assert tag.text.startswith("a name") and "…" in tag.text and tag.text.endswith("long 0.57")


@pytest.mark.parametrize(
    ("text", "missing"), [("Straße", False), ("собака", False), ("ψ", False), ("\U00014400", None)]
)
def test_letters_of_other_scripts(text: str, missing: bool | None) -> None:
    """Where no font has a letter (few machines have hieroglyphs), a box stands in its place, and the program says so."""
    assert letters_are_missing(text) is missing or missing is None
    tags([(9, 9, 99, 99)], [text]).pixels()


def test_names_stay_in_one_line() -> None:
    assert printable("a\nb\u202ec") == "a·b·c"


def test_the_picture_is_a_function_of_its_inputs() -> None:
    found = Detections(
        np.asarray([[0, 0, 320, 240], [310, 230, 320, 240]], np.float32),
        np.asarray([0, 21], np.int32),
        np.asarray([0.5, 0.9], np.float32),
    )
    names = [f"class {index}" for index in range(22)]
    one, two = (draw_detections(GREY, found, names, title="key") for _ in range(2))
    assert (one == two).all() and (one != 128).any() and (GREY == 128).all()
    assert draw_detections(GREY, Detections.empty(), names, longest=100).shape == (75, 100, 3)


def test_a_sheet_holds_every_tile() -> None:
    tiles = [
        np.full((height, width, 3), value, np.uint8)
        for value, (height, width) in enumerate([(4, 6), (2, 9), (5, 3)])
    ]
    whole = sheet(tiles, 2, gap=1)
    assert whole.shape == (4 + 1 + 5, 6 + 1 + 9, 3)
    assert [(whole == value).all(axis=2).sum() for value in range(3)] == [24, 18, 15]


def test_masks_are_translucent_and_outlined() -> None:
    """What they show stays visible, a hole stays as it was, and boxes beside them are thin."""
    mask = np.zeros((1, 240, 320), bool)
    mask[0, 80:200, 60:260] = True
    mask[0, 120:160, 130:190] = False
    box, index, score = (
        np.asarray([[60, 80, 260, 200]], np.float32),
        np.zeros(1, np.int32),
        np.ones(1, np.float32),
    )
    (counts,) = masks.encode(mask)
    drawn = draw_detections(GREY, Detections(box, index, score, (counts,)), ["x"])
    factor = drawn.shape[0] / 240
    for x, y, inside in ((100, 100, True), (160, 140, False), (20, 120, False), (225, 180, True)):
        colour_there = drawn[round(y * factor), round(x * factor)]
        assert ((colour_there != 128).any() and not (colour_there == (0xE6, 0x19, 0x4B)).all()) == inside
    plain = draw_detections(GREY, Detections(box, index, score), ["x"])
    assert (plain[round(140 * factor), round(160 * factor)] == 128).all()
    for count in (0, 1, 2, 6, 7):
        several = Detections(
            box.repeat(count, 0), index.repeat(count), score.repeat(count), (counts,) * count
        )
        assert draw_detections(GREY, several, ["x"]).shape == drawn.shape
