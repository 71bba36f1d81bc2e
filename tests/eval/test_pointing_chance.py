from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.core.types import GroundTruth
from weaksam_cli.eval.pointing_chance import any_pixel_inside, any_pixel_inside_any, centre_inside

NAMES = ["cat", "dog"]


def truth(*objects: tuple[int, list[float]]) -> GroundTruth:
    return GroundTruth(
        np.asarray([box for _, box in objects], np.float32).reshape(-1, 4),
        np.asarray([index for index, _ in objects], np.int32),
        np.zeros(len(objects), bool),
    )


IMAGES = {
    # two cats that overlap: 60 + 60 - 20 of 200 pixels; the centre, column 10 and row 5, lies below both
    "a": truth((0, [0, 0, 12, 5]), (0, [8, 0, 20, 5])),
    # a cat on the left half, a dog in the middle
    "b": truth((0, [0, 0, 10, 10]), (1, [8, 4, 12, 6])),
    "empty": truth(),
}
SIZES = {"a": (10, 20), "b": (10, 20), "empty": (5, 5)}


def test_any_pixel() -> None:
    found = any_pixel_inside(IMAGES, SIZES, NAMES)
    assert found.values["cat"] == pytest.approx((100 / 200 + 100 / 200) / 2)
    assert found.values["dog"] == pytest.approx(8 / 200)


def test_any_pixel_and_any_class() -> None:
    """In b the dog adds the columns that the cat leaves; an image without objects counts for nothing."""
    assert any_pixel_inside_any(IMAGES, SIZES) == pytest.approx((100 / 200 + 104 / 200) / 2)
    assert any_pixel_inside_any({"empty": IMAGES["empty"]}, SIZES) is None


def test_centre() -> None:
    found = centre_inside(IMAGES, SIZES, NAMES)
    assert found.values == {"cat": 0.0, "dog": 1.0}


def test_without_objects_nothing_is_known() -> None:
    for measure in (any_pixel_inside, centre_inside):
        assert np.isnan(measure({"empty": truth()}, SIZES, NAMES).mean)
