"""Views: sizes, mirror images, lighting and normalisation, with the boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.wsod.vgg16 import Vgg16, ViewSettings
from weaksam_cli.wsod.views import View, boxes_to_image, paired_views, training_view, view_size
from weaksam_cli.wsod.views import test_views as views_of  # pytest would take it for a test

AS_THEY_ARE = {"order": "RGB", "mean": (0, 0, 0)}
NO_BOXES = np.zeros((0, 4), np.float32)


def network(
    pixels: dict[str, Any] | None = None,
    *,
    train: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    **views: Any,
) -> Vgg16:
    """One view of 64 pixels, pixels as they are, unless said otherwise."""
    return Vgg16.model_validate(
        {
            "name": "vgg16",
            "pixels": AS_THEY_ARE if pixels is None else pixels,
            "views": views,
            "train_images": {"short_sides": (64,), "flip": 0.0, "lighting": 0.0} | (train or {}),
            "test_images": {"short_sides": (64,), "flip": False} | (test or {}),
        }
    )


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
    conventions=st.sampled_from([{}, {"boxes": "inclusive", "sizes": "truncated"}]),
)
def test_boxes_go_to_the_view_and_back(
    height: int, width: int, n: int, seed: int, conventions: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, n, height, width)
    image = grey(height, width)
    settings = network(
        train={"short_sides": (40, 70), "flip": 0.5},
        test={"short_sides": (32, 80), "flip": True},
        max_size=200,
        **conventions,
    )
    for view in (training_view(image, boxes, settings, rng), *views_of(image, boxes, settings)):
        tall, wide = view.size
        if settings.views.boxes == "edges":
            limits = np.asarray([wide, tall, wide, tall]) + 1e-3
            assert (view.boxes >= -1e-3).all() and (view.boxes <= limits).all()
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
        network(train={"short_sides": (short_side,), "flip": flip}),
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
    sides = {"short_sides": (short_side,)}
    settings = network(train=sides, test=sides, max_size=max_size)
    drawn = training_view(grey(height, width), NO_BOXES, settings, np.random.default_rng(0))
    (tested,) = views_of(grey(height, width), NO_BOXES, settings)
    for view in (drawn, tested):
        assert view.size == size and view.pixels.shape == (3, *size)
        assert view.scale == (size[1] / width, size[0] / height)


@pytest.mark.parametrize(
    ("order", "expected"),
    [("RGB", [(250 - 1) / 2, (100 - 2) / 4, (30 - 3) / 5]), ("BGR", [14.5, 24.5, 49.4])],
)
def test_order_mean_and_deviation(order: str, expected: list[float]) -> None:
    image = np.broadcast_to(np.asarray([250, 100, 30], np.uint8), (64, 64, 3))
    settings = network({"order": order, "mean": (1, 2, 3), "deviation": (2, 4, 5)})
    view = training_view(image, NO_BOXES, settings, np.random.default_rng(0))
    assert view.pixels.dtype == np.float32
    np.testing.assert_allclose(view.pixels[:, 20, 30], expected, atol=1e-5)
    (tested,) = views_of(image, NO_BOXES, settings)
    np.testing.assert_array_equal(tested.pixels, view.pixels)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_lighting_is_alexnets(order: str) -> None:
    """Against the formula written out: colour += sum over k of p_k * (alpha_k * lambda_k), on colours 0 to 1."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    pixels = {"order": order, "mean": (10, 20, 30), "deviation": (1, 2, 4)}

    def view(lighting: float = 0.4) -> FloatArray:
        bright = network(pixels, train={"lighting": lighting})
        return training_view(image, NO_BOXES, bright, np.random.default_rng(7)).pixels

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
    assert np.abs(view() - view(0.0)).max() > 0.1


def test_without_lighting_no_numbers_are_drawn_for_it() -> None:
    states = []
    for lighting in (0.0, 0.1):
        rng = np.random.default_rng(3)
        training_view(grey(64, 64), NO_BOXES, network(train={"lighting": lighting}), rng)
        states.append(rng.random())
    rng = np.random.default_rng(3)
    rng.choice(np.asarray([64]))
    rng.random()
    assert states[0] == rng.random() != states[1]


def test_sizes_and_mirror_images_are_drawn_as_said() -> None:
    rng = np.random.default_rng(0)
    settings = network(train={"short_sides": (32, 40, 48), "flip": 0.25})
    views = [training_view(grey(32, 40), NO_BOXES, settings, rng) for _ in range(400)]
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
        for view in views_of(grey(6, 8), boxes, Vgg16(name="vgg16"))
    ]
    sides = (800, 480, 576, 688, 864, 1000, 1200)
    assert seen == [(side, mirrored, (1, 4)) for side in sides for mirrored in (False, True)]
    assert len(seen) == 14


def test_a_mirrored_view_is_the_mirror_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    plain, mirrored = views_of(image, NO_BOXES, network(test={"flip": True}))
    assert (plain.mirrored, mirrored.mirrored) == (False, True)
    np.testing.assert_array_equal(mirrored.pixels, plain.pixels[:, :, ::-1])
    assert mirrored.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("height", "width", "short_side", "rounded", "truncated"),
    [
        (375, 500, 480, (480, 640), (480, 640)),
        (333, 500, 480, (480, 721), (480, 720)),
        (500, 334, 688, (1030, 688), (1029, 688)),
        (100, 500, 800, (400, 2000), (400, 2000)),
        (333, 2001, 864, (333, 2000), (333, 2001)),
        (1, 2001, 32, (1, 2000), (1, 2001)),
    ],
)
def test_the_longer_side_is_rounded_or_truncated(
    height: int, width: int, short_side: int, rounded: tuple[int, int], truncated: tuple[int, int]
) -> None:
    """The published MIST truncates, where rounding made half of its views a pixel longer; mmcv, and so OICR, rounds."""
    assert view_size(height, width, short_side, ViewSettings()) == rounded
    assert view_size(height, width, short_side, ViewSettings(sizes="truncated")) == truncated


@pytest.mark.parametrize("mirrored", [False, True])
def test_published_boxes_are_scaled_as_inclusive_indexes(mirrored: bool) -> None:
    """Pixels 10 to 29 of 100, twice as large: published 20 to 58 and so 20 to 59 on edges, which scale to 20 to 60."""
    boxes = np.asarray([[10, 0, 30, 50]], np.float32)
    expected = {"edges": [20, 0, 60, 100], "inclusive": [20, 0, 59, 99]}
    for convention, (left, top, right, bottom) in expected.items():
        settings = network(test={"short_sides": (100,), "flip": True}, boxes=convention)
        plain, flipped = views_of(grey(50, 100), boxes, settings)
        view = flipped if mirrored else plain
        assert view.boxes.tolist() == [
            [200 - right, top, 200 - left, bottom] if mirrored else [left, top, right, bottom]
        ]
        np.testing.assert_allclose(boxes_to_image(view.boxes, view, 50, 100), boxes, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_rounded_sizes_equal_detectron2s(height: int, width: int) -> None:
    import_detectron2()
    from detectron2.data.transforms import ResizeShortestEdge

    size = ResizeShortestEdge.get_output_shape(height, width, 256, 640)
    found = view_size(height, width, 256, ViewSettings(max_size=640))
    assert np.abs(np.subtract(found, size)).max() <= 1


@pytest.mark.parametrize("sides", [(40,), (40, 70), (40, 70, 90)])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_pairs_are_two_sizes_each_plain_and_mirrored(n: int, sides: tuple[int, ...]) -> None:
    rng = np.random.default_rng(n)
    boxes, settings = random_boxes(rng, n, 60, 80), network(train={"short_sides": sides, "flip": 1.0})
    first, first_mirrored, second, second_mirrored = paired_views(grey(60, 80), boxes, settings, rng)
    assert {first.size[0], second.size[0]} <= set(sides)
    assert (first.size != second.size) == (len(sides) > 1)
    for plain, other in ((first, first_mirrored), (second, second_mirrored)):
        assert (plain.mirrored, other.mirrored, plain.size) == (False, True, other.size)
        assert len(plain.boxes) == n
        for view in (plain, other):
            np.testing.assert_allclose(boxes_to_image(view.boxes, view, 60, 80), boxes, atol=1e-3)
