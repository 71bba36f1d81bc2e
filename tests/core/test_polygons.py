"""Masks as polygons, filled again by pycocotools and OpenCV, which did not make them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from weaksam_cli.core import masks
from weaksam_cli.core.polygons import LEAST_IOU, joined, outline, rings
from weaksam_cli.data.outlines import polygon_mask

SHAPES: dict[str, tuple[list[str], int]] = {
    "nothing": (["....", "...."], 0),
    "one pixel": (["....", ".#.."], 1),
    "all": (["####", "####"], 1),
    "a hole": (["#####", "#...#", "#####"], 2),
    "two parts": (["##..#", "##..#"], 2),
    "corner to corner": (["#.", ".#"], 1),
    "a part within a hole": (["#####", "#...#", "#.#.#", "#...#", "#####"], 3),
}  # fmt: skip


def filled(ring: NDArray[np.int32], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """As pycocotools fills it."""
    return masks.decode([polygon_mask([ring.reshape(-1).tolist()])(*shape)], *shape)[0]


@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes(name: str) -> None:
    rows, count = SHAPES[name]
    mask = np.asarray([[letter == "#" for letter in row] for row in rows])
    found = rings(mask)
    assert len(found) == count
    if count:
        np.testing.assert_array_equal(filled(joined(found), mask.shape), mask)
    (counts,) = masks.encode(mask[None])
    simple = outline(counts, *mask.shape)
    assert (simple is None) == (count == 0)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_comes_back_exactly(mask: NDArray[np.bool_]) -> None:
    found = rings(mask)
    if not mask.any():
        assert found == []
        return
    np.testing.assert_array_equal(filled(joined(found), mask.shape), mask)
    # OpenCV fills the pixels of the border, too: on eight times the size that is an eighth of a pixel.
    canvas = np.zeros([8 * side for side in mask.shape], np.uint8)
    cv2.fillPoly(canvas, [8 * ring for ring in found], 1)
    np.testing.assert_array_equal(canvas[4::8, 4::8], mask)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 6, 7]), st.booleans())
def test_simple_outlines_are_the_mask(seed: int, parts: int, has_holes: bool) -> None:
    """Blobs with holes: few corners, and the IoU that is promised."""
    generator, canvas = np.random.default_rng(seed), np.zeros((90, 120), np.uint8)
    for number in range(2 * parts):
        centre, axes = generator.integers(0, 120, 2).tolist(), generator.integers(1, 30, 2).tolist()
        cv2.ellipse(
            canvas,
            centre,
            axes,
            float(generator.integers(180)),
            0,
            360,
            0 if number % 2 and has_holes else 1,
            -1,
        )
    mask = canvas.astype(bool)
    (counts,) = masks.encode(mask[None])
    ring = outline(counts, *mask.shape)
    if ring is None:
        assert not mask.any()
        return
    again = filled(ring, (90, 120))
    assert (again & mask).sum() / (again | mask).sum() >= LEAST_IOU
    assert len(ring) <= len(joined(rings(mask)))
    assert (ring >= 0).all() and (ring <= [120, 90]).all()
