"""Views: sizes, mirror images, lighting and normalisation, with the boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.wsod.end_to_end.recipe import (
    InferenceSettings,
    PixelSettings,
    ProposalSettings,
    TrainImageSettings,
)
from weaksam_cli.wsod.end_to_end.views import View, boxes_to_image, training_view, usable_proposals
from weaksam_cli.wsod.end_to_end.views import test_views as views_of  # pytest would take it for a test

AS_THEY_ARE = PixelSettings(order="RGB", mean=(0, 0, 0))
NO_BOXES = np.zeros((0, 4), np.float32)


def train_images(**changes: Any) -> TrainImageSettings:
    return TrainImageSettings.model_validate({"short_sides": (64,), "flip": 0.0, "lighting": 0.0} | changes)


def inference(**changes: Any) -> InferenceSettings:
    return InferenceSettings.model_validate({"short_sides": (64,), "flip": False} | changes)


def random_boxes(rng: np.random.Generator, n: int, height: int, width: int) -> FloatArray:
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)), axis=1) * (width, height)
    return corners.reshape(-1, 4).astype(np.float32)


def grey(height: int, width: int, value: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    n=st.sampled_from([0, 1, 2, 6, 7]),
    seed=st.integers(0, 999),
)
def test_boxes_go_to_the_view_and_back(height: int, width: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, n, height, width)
    image = grey(height, width)
    training = training_view(
        image, boxes, train_images(short_sides=(40, 70), max_size=200, flip=0.5), AS_THEY_ARE, rng
    )
    testing = views_of(image, boxes, inference(short_sides=(32, 80), max_size=200, flip=True), AS_THEY_ARE)
    for view in (training, *testing):
        tall, wide = view.size
        assert (view.boxes >= -1e-3).all() and (
            view.boxes <= np.asarray([wide, tall, wide, tall]) + 1e-3
        ).all()
        assert (view.boxes[:, 2:] >= view.boxes[:, :2]).all()
        back = boxes_to_image(view.boxes, view, height, width)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [(0, 4), (2, 4), (2, 3, 4), (0, 3, 4)])
def test_boxes_of_any_shape_are_cut_to_the_image(shape: tuple[int, ...], mirrored: bool) -> None:
    view = View(np.zeros((3, 40, 60), np.float32), NO_BOXES, (2.0, 4.0), mirrored)
    boxes = np.broadcast_to(np.asarray([-10, 8, 20, 900], np.float32), shape)
    expected = [20, 2, 30, 10] if mirrored else [0, 2, 10, 10]
    met = boxes_to_image(boxes, view, height=10, width=30)
    assert met.shape == shape
    np.testing.assert_array_equal(met, np.broadcast_to(np.asarray(expected, np.float32), shape))


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("short_side", [32, 60, 90, 150])
def test_a_bright_rectangle_stays_in_its_box(short_side: int, flip: float) -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[10:30, 5:45] = (250, 10, 100)
    view = training_view(
        image,
        np.asarray([[5, 10, 45, 30]], np.float32),
        train_images(short_sides=(short_side,), flip=flip),
        AS_THEY_ARE,
        np.random.default_rng(0),
    )
    assert view.mirrored == (flip == 1)
    assert view.size == (short_side, int(100 * short_side / 60 + 0.5))
    left, top, right, bottom = np.rint(view.boxes[0]).astype(int)
    assert (right - left) / view.size[1] == pytest.approx(0.4, abs=0.03)
    margin = 4
    red = view.pixels[0]
    assert red[top + margin : bottom - margin, left + margin : right - margin].min() > 240
    outside = red.copy()
    outside[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin] = 0
    assert outside.max() < 10
    assert view.pixels.flags.c_contiguous
    # The middle of what is bright is the middle of the box, to a fraction of a pixel.
    columns, rows = red.sum(axis=0), red.sum(axis=1)
    middle = [(np.arange(len(line)) + 0.5) @ line / line.sum() for line in (columns, rows)]
    box = view.boxes[0]
    np.testing.assert_allclose(middle, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=0.15)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "max_size", "size"),
    [
        (100, 200, 50, 2000, (50, 100)),
        (100, 200, 50, 80, (40, 80)),
        (200, 100, 50, 80, (80, 40)),
        (10, 1000, 64, 320, (3, 320)),
        (1, 999, 64, 100, (1, 100)),
        (100, 200, 100, 200, (100, 200)),
    ],
)
def test_the_longer_side_has_the_last_word(
    height: int, width: int, short_side: int, max_size: int, size: tuple[int, int]
) -> None:
    drawn = training_view(
        grey(height, width),
        NO_BOXES,
        train_images(short_sides=(short_side,), max_size=max_size),
        AS_THEY_ARE,
        np.random.default_rng(0),
    )
    (tested,) = views_of(
        grey(height, width), NO_BOXES, inference(short_sides=(short_side,), max_size=max_size), AS_THEY_ARE
    )
    for view in (drawn, tested):
        assert view.size == size and view.pixels.shape == (3, *size)
        assert view.scale == (size[1] / width, size[0] / height)


@pytest.mark.parametrize(
    ("order", "expected"),
    [("RGB", [(250 - 1) / 2, (100 - 2) / 4, (30 - 3) / 5]), ("BGR", [14.5, 24.5, 49.4])],
)
def test_order_mean_and_deviation(order: str, expected: list[float]) -> None:
    image = np.broadcast_to(np.asarray([250, 100, 30], np.uint8), (64, 64, 3))
    pixels = PixelSettings.model_validate({"order": order, "mean": (1, 2, 3), "deviation": (2, 4, 5)})
    view = training_view(image, NO_BOXES, train_images(), pixels, np.random.default_rng(0))
    assert view.pixels.dtype == np.float32
    np.testing.assert_allclose(view.pixels[:, 20, 30], expected, atol=1e-5)
    (tested,) = views_of(image, NO_BOXES, inference(), pixels)
    np.testing.assert_array_equal(tested.pixels, view.pixels)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_lighting_is_alexnets(order: str) -> None:
    """Against the formula written out: colour += sum over k of p_k * (alpha_k * lambda_k), on colours 0 to 1."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    pixels = PixelSettings.model_validate({"order": order, "mean": (10, 20, 30), "deviation": (1, 2, 4)})
    bright = train_images(lighting=0.4)

    def view() -> FloatArray:
        return training_view(image, NO_BOXES, bright, pixels, np.random.default_rng(7)).pixels

    drawn = np.random.default_rng(7)
    drawn.choice(np.asarray([64]))
    drawn.random()
    alpha = drawn.normal(0, 0.4, 3)
    eigenvalues = [0.2175, 0.0188, 0.0045]
    eigenvectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    colours = image / 255
    for channel in range(3):
        colours[:, :, channel] += sum(eigenvectors[channel][k] * alpha[k] * eigenvalues[k] for k in range(3))
    ordered = (colours if order == "RGB" else colours[:, :, ::-1]) * 255
    expected = ((ordered - [10, 20, 30]) / [1, 2, 4]).transpose(2, 0, 1)
    np.testing.assert_allclose(view(), expected, atol=1e-4)
    np.testing.assert_array_equal(view(), view())
    unlit = training_view(image, NO_BOXES, train_images(), pixels, np.random.default_rng(7)).pixels
    assert np.abs(view() - unlit).max() > 0.1


def test_without_lighting_no_numbers_are_drawn_for_it() -> None:
    states = []
    for lighting in (0.0, 0.1):
        rng = np.random.default_rng(3)
        training_view(grey(64, 64), NO_BOXES, train_images(lighting=lighting), AS_THEY_ARE, rng)
        states.append(rng.random())
    rng = np.random.default_rng(3)
    rng.choice(np.asarray([64]))
    rng.random()
    assert states[0] == rng.random() != states[1]


def test_sizes_and_mirror_images_are_drawn_as_said() -> None:
    rng = np.random.default_rng(0)
    changes = train_images(short_sides=(32, 40, 48), flip=0.25)
    views = [training_view(grey(32, 40), NO_BOXES, changes, AS_THEY_ARE, rng) for _ in range(400)]
    heights = [view.size[0] for view in views]
    assert {side: heights.count(side) for side in set(heights)} == pytest.approx(
        {32: 133, 40: 133, 48: 133}, abs=35
    )
    assert sum(view.mirrored for view in views) == pytest.approx(100, abs=30)


def test_views_of_mist_by_default() -> None:
    """Spec 04 §A.6: 14 views, 800 first; they are made one at a time."""
    boxes = np.asarray([[1, 2, 3, 5]], np.float32)
    seen = [
        (min(view.size), view.mirrored, view.boxes.shape)
        for view in views_of(grey(6, 8), boxes, InferenceSettings(), PixelSettings())
    ]
    sides = (800, 480, 576, 688, 864, 1000, 1200)
    assert seen == [(side, mirrored, (1, 4)) for side in sides for mirrored in (False, True)]
    assert len(seen) == 14


def test_a_mirrored_view_is_the_mirror_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    plain, mirrored = views_of(image, NO_BOXES, inference(flip=True), PixelSettings())
    assert (plain.mirrored, mirrored.mirrored) == (False, True)
    np.testing.assert_array_equal(mirrored.pixels, plain.pixels[:, :, ::-1])
    assert mirrored.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, [0, 1, 3]),
        ({"above": True}, [1, 3]),
        ({"cell": 8.0}, [0, 1]),
        ({"most": 2}, [0, 1]),
        ({"most": 1, "above": True}, [1]),
        ({"min_side": 0.0}, [0, 1, 2, 3]),
        ({"min_side": 90.0}, [None]),
    ],
)
def test_usable_proposals(changes: dict[str, Any], kept: list[int | None]) -> None:
    boxes = np.asarray(
        [[0, 0, 20, 40], [30, 10, 80, 60], [5, 5, 24, 60], [31, 10, 81, 60], [30, 10, 80, 60]], np.float32
    )
    whole = [0.0, 0.0, 82.0, 70.0]
    met = usable_proposals(boxes, 70, 82, ProposalSettings.model_validate(changes))
    assert met.tolist() == [whole if index is None else boxes[index].tolist() for index in kept]
    assert met.dtype == np.float32


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_there_is_always_a_usable_proposal(n: int) -> None:
    far = np.tile(np.asarray([[500, 500, 600, 600]], np.float32), (n, 1))
    assert usable_proposals(far, 70, 82, ProposalSettings()).tolist() == [[0, 0, 82, 70]]
