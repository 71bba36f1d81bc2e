"""Masks of boxes: with learned edges, and without."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from weaksam_cli.core.masks import decode, tight_boxes
from weaksam_cli.models.hed import HedNetwork, load_hed
from weaksam_cli.models.weights.catalogue import WeightsFinder
from weaksam_cli.propose.prompting import Segmenter
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter
from weaksam_cli.propose.region_tree_masks import BoxSettings, Recipe, open_segmenter
from weaksam_cli.propose.region_tree_masks.segmenter import BoxMaskSegmenter, above, judge


def disc() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red disc on noisy grey, and its mask."""
    y, x = np.mgrid[:90, :120]
    mask = (y - 45) ** 2 + (x - 50) ** 2 < 30**2
    image = np.where(mask[..., None], (200, 40, 40), (120, 120, 120))
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


BOX = np.asarray([[20, 15, 80, 75]], np.float32) + np.asarray([1, 1, 0, 0], np.float32)


@pytest.fixture(scope="module", params=["learned edges", "gradients"])
def segmenter(request: pytest.FixtureRequest) -> BoxMaskSegmenter:
    network: HedNetwork | None = None
    if request.param == "learned edges":
        weights = WeightsFinder(()).find(Recipe().weights)
        if weights is None:
            pytest.skip("the weights of HED are not installed")
        network = load_hed(weights)
    made = BoxMaskSegmenter(TreeSettings(), BoxSettings(), network)
    made.set_image(disc()[0])
    return made


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_is_a_segmenter(segmenter: BoxMaskSegmenter) -> None:
    assert isinstance(segmenter, Segmenter)


def test_a_box_finds_the_disc_in_it(segmenter: BoxMaskSegmenter) -> None:
    answer = segmenter.prompt_boxes(BOX, masks=True, multimask=False)
    assert answer.counts is not None
    assert iou(decode(answer.counts[0], 90, 120)[0], disc()[1]) > 0.93
    assert answer.predicted_iou.item() > 0.5


def test_points_and_proposals_are_those_of_the_region_tree(segmenter: BoxMaskSegmenter) -> None:
    plain = RegionTreeSegmenter(TreeSettings())
    plain.set_image(disc()[0])
    points = (np.asarray([[[50, 45]]], np.float32), np.ones((1, 1), np.int8))
    np.testing.assert_array_equal(segmenter.prompt_points(*points).boxes, plain.prompt_points(*points).boxes)
    np.testing.assert_array_equal(segmenter.grid_proposals(50).boxes, plain.grid_proposals(50).boxes)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("multimask", [True, False])
def test_answers_are_consistent(segmenter: BoxMaskSegmenter, n: int, multimask: bool) -> None:
    corners = (np.random.default_rng(n).random((n, 2, 2)) * (130, 100) - 5).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    answer = segmenter.prompt_boxes(boxes, masks=True, multimask=multimask)
    assert answer.boxes.shape == (n, 3 if multimask else 1, 4)
    assert answer.counts is not None
    for index in range(n):
        masks = decode(answer.counts[index], 90, 120)
        np.testing.assert_array_equal(tight_boxes(answer.counts[index], 90, 120), answer.boxes[index])
        np.testing.assert_array_equal(masks.sum(axis=(1, 2)), answer.area[index])
        assert masks.any(axis=(1, 2)).all(), "no mask is empty"
        assert (masks[:-1] <= masks[1:]).all(), "part, object and whole are nested"
    for values in (answer.predicted_iou, answer.stability):
        assert ((values >= 0) & (values <= 1)).all()


def test_an_answer_does_not_depend_on_other_boxes_nor_on_what_was_asked_before(
    segmenter: BoxMaskSegmenter,
) -> None:
    boxes = np.concatenate([BOX, BOX + 20])
    both = segmenter.prompt_boxes(boxes, masks=True)
    alone = segmenter.prompt_boxes(boxes[1:], masks=True)
    assert both.counts is not None and alone.counts is not None
    assert both.counts[1:] == alone.counts
    segmenter.set_image(np.zeros((8, 9, 3), np.uint8))
    assert (segmenter.prompt_boxes(BOX).boxes <= (9, 8, 9, 8)).all()
    segmenter.set_image(disc()[0])
    assert segmenter.prompt_boxes(boxes, masks=True).counts == both.counts
    assert segmenter.prompt_boxes(boxes).counts is None


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image set"):
        BoxMaskSegmenter(TreeSettings(), BoxSettings(), None).prompt_boxes(BOX)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 7), (9, 1), (3, 4_000), (4_000, 3)])
@pytest.mark.parametrize("kind", ["constant", "noise"])
def test_odd_images(shape: tuple[int, int], kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = open_segmenter(Recipe(), None, "cpu")
    made.set_image(noise if kind == "noise" else np.full_like(noise, 77))
    whole = np.asarray([0, 0, shape[1], shape[0]], np.float32)
    answer = made.prompt_boxes(np.stack([whole, whole / 2, whole * 0, whole * 9]), masks=True)
    assert (answer.area >= 1).all()
    assert (answer.boxes <= np.tile(whole[2:], 2)).all()


def test_a_large_image_is_worked_on_at_reduced_size() -> None:
    small, disc_mask = disc()
    image = small.repeat(4, axis=0).repeat(4, axis=1)[:-1, :-3]
    mask = disc_mask.repeat(4, axis=0).repeat(4, axis=1)[:-1, :-3]
    made = BoxMaskSegmenter(TreeSettings(max_pixels=90 * 120 + 100), BoxSettings(), None)
    made.set_image(image)
    answer = made.prompt_boxes(BOX * 4, masks=True, multimask=False)
    assert answer.counts is not None
    assert iou(decode(answer.counts[0], *mask.shape)[0], mask) > 0.9


@pytest.mark.parametrize(
    ("votes", "areas"),
    [
        ([[1.0, 0.6, 0.4, 0.0]], [1, 2, 3]),
        ([[0.2, 0.1, 0.0, 0.0]], [1, 1, 1]),  # too few votes for any threshold: those with the most
        ([[0.6, 0.6, 0.6, 0.6]], [4, 4, 4]),
    ],
)
def test_thresholds_of_votes(votes: list[list[float]], areas: list[int]) -> None:
    counted = np.asarray(votes, np.float32)
    assert above(counted, (0.7, 0.5, 0.3)).sum(axis=(1, 2)).tolist() == areas
    expected, stability = judge(counted, (0.7, 0.5, 0.3))
    assert expected.shape == stability.shape == (3,)


def test_certain_votes_are_expected_to_be_right() -> None:
    expected, stability = judge(np.asarray([[1, 1, 0, 0]], np.float32), (0.7, 0.5, 0.3))
    np.testing.assert_array_equal(expected, 1)
    np.testing.assert_array_equal(stability, 1)
