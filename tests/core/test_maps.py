from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given as example
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weaksam_cli.core.maps import cell_affinity, classes_of_views, fuse_views, normalise, resize_bilinear

THRESHOLD = -0.5


def view_maps(kind: str, output: dict[str, Any]) -> NDArray[np.float32]:
    """The maps of one view as a clue network gives them: (C, [m], h, w)."""
    if kind == "coarse":
        return np.asarray(output["coarse_cam"], np.float32)[0]
    if kind == "cross":
        per_head = np.asarray(output["per_head_layer_cross"], np.float32)[0]
        heads, layers, classes, height, width = per_head.shape
        return per_head.reshape(heads * layers, classes, height, width).swapaxes(0, 1)
    cam = np.asarray(output["fused_cam"], np.float32)[0]
    affinity = np.asarray(output["patch_attention"], np.float32)[0]
    return (cam.reshape(len(cam), -1) @ affinity.T).reshape(cam.shape)


@pytest.mark.parametrize("index", range(5))
def test_fusion_of_the_published_code(oracle: Any, index: int) -> None:
    case = oracle("cam_fusion")["cases"][index]
    outputs = case["model_outputs_per_view"]
    height, width = case["image_size"]
    labels = np.flatnonzero(case["target"]).tolist()
    logits = np.asarray([output["logits"][0] for output in outputs], np.float32)
    entering = classes_of_views(labels or (None if case["gen_test"] else []), logits, THRESHOLD)
    views = [view_maps(case["kind"], output) for output in outputs]
    fused = fuse_views(
        views, flipped=[False, True, False, True], entering=entering, height=height, width=width
    )
    for key, expected in case["maps"].items():
        got = fused[int(key)]
        np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 2], [[1, 0, 1], [1, 0, 1], [1, 0, 1]]),
        ([], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        # No class passes in the first view, so the second decides, for the third as well.
        (None, [[0, 0, 0], [0, 1, 0], [0, 1, 0]]),
    ],
)
def test_classes_that_enter(given: list[int] | None, expected: list[list[int]]) -> None:
    logits = np.asarray([[-0.5, -0.6, -3], [-1, -0.4, -2], [5, 5, 5]], np.float32)
    assert classes_of_views(given, logits, THRESHOLD).astype(int).tolist() == expected


def test_no_view_may_pass() -> None:
    assert not classes_of_views(None, np.full((2, 3), -4, np.float32), THRESHOLD).any()


def test_a_mirrored_pair_gives_the_map_itself() -> None:
    heat = np.random.default_rng(0).random((1, 5, 7), np.float32)
    entering = np.ones((2, 1), bool)
    pair = fuse_views([heat, heat[..., ::-1]], flipped=[False, True], entering=entering, height=20, width=28)
    single = fuse_views([heat], flipped=[False], entering=entering[:1], height=20, width=28)
    np.testing.assert_allclose(pair, single, atol=1e-6)


def test_a_class_may_enter_in_some_views_only() -> None:
    views = [np.full((2, 2, 2), 9, np.float32), np.arange(8, dtype=np.float32).reshape(2, 2, 2)]
    entering = np.asarray([[False, False], [True, False]])
    fused = fuse_views(views, flipped=[False, False], entering=entering, height=2, width=2)
    np.testing.assert_allclose(fused[0], [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)
    assert not fused[1].any()


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_any_number_of_classes(count: int) -> None:
    views = [np.ones((count, 3, 2, 2), np.float32)]
    fused = fuse_views(views, flipped=[True], entering=np.ones((1, count), bool), height=4, width=5)
    assert fused.shape == (count, 3, 4, 5)
    assert not fused.any()


def test_half_precision_maps_are_welcome() -> None:
    fused = fuse_views(
        [np.eye(3, dtype=np.float16)[None]],
        flipped=[False],
        entering=np.ones((1, 1), bool),
        height=3,
        width=3,
    )
    np.testing.assert_array_equal(fused[0], np.eye(3, dtype=np.float32))


def test_what_does_not_fit_is_refused() -> None:
    view = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="got 0 views"):
        fuse_views([], flipped=[], entering=np.zeros((0, 1), bool), height=2, width=2)
    with pytest.raises(ValueError, match="2 flips"):
        fuse_views([view], flipped=[True, False], entering=np.zeros((1, 1), bool), height=2, width=2)
    with pytest.raises(ValueError, match="entering"):
        fuse_views([view], flipped=[True], entering=np.zeros((1, 2), bool), height=2, width=2)


def test_normalisation_spans_zero_to_one() -> None:
    maps = np.random.default_rng(1).normal(size=(3, 2, 6, 7)).astype(np.float32)
    scaled = normalise(maps)
    assert (scaled.min(axis=(-2, -1)) == 0).all()
    np.testing.assert_allclose(scaled.max(axis=(-2, -1)), 1, atol=1e-6)


def test_rounding_noise_of_a_flat_map_is_no_peak() -> None:
    resized = resize_bilinear(np.ones((1, 2, 2), np.float32), 4, 5)
    assert not normalise(resized).any()


def test_resizing_repeats_the_border() -> None:
    resized = resize_bilinear(np.asarray([[[0, 1]]], np.float32), 1, 4)
    np.testing.assert_allclose(resized[0, 0], [0, 0.25, 0.75, 1])


@settings(max_examples=40, deadline=None)
@example(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_rows_are_distributions_and_no_cell_is_nearer_than_itself(
    channels: int, height: int, width: int, seed: int
) -> None:
    features = np.random.default_rng(seed).normal(size=(channels, height, width)).astype(np.float32)
    affinity = cell_affinity(features)
    assert affinity.shape == (height * width, height * width)
    assert (affinity >= 0).all()
    assert np.allclose(affinity.sum(axis=1), 1, atol=1e-5)
    assert (np.diag(affinity) >= affinity.max(axis=1) - 1e-5).all()


def test_a_flat_image_leaves_maps_as_they_are() -> None:
    assert np.array_equal(cell_affinity(np.ones((3, 2, 2), np.float32)), np.eye(4, dtype=np.float32))


def test_a_channel_that_all_cells_share_says_nothing() -> None:
    features = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    shared = np.concatenate([features, np.full((1, 2, 3), 7, np.float32)])
    assert np.allclose(cell_affinity(features), cell_affinity(shared), atol=1e-5)


def test_a_threshold_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        cell_affinity(np.zeros((1, 1, 1), np.float32), threshold=1.0)
