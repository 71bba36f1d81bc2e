"""The embedded segmenter behind the interface that it shares with SAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from weaksam_cli.core.boxes import iou
from weaksam_cli.core.masks import decode, tight_boxes
from weaksam_cli.propose.prompting import Segmenter
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter


def squares() -> NDArray[np.uint8]:
    """A red square with a yellow square inside it, and a blue one beside, on noisy grey."""
    image = np.full((120, 160, 3), 120, np.uint8)
    image[20:90, 10:80] = (200, 30, 30)
    image[40:60, 30:55] = (230, 220, 40)
    image[50:100, 105:145] = (20, 40, 200)
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


RED, YELLOW, BLUE = ([10, 20, 80, 90], [30, 40, 55, 60], [105, 50, 145, 100])


@pytest.fixture(scope="module")
def segmenter() -> RegionTreeSegmenter:
    made = RegionTreeSegmenter(TreeSettings())
    made.set_image(squares())
    return made


def ones(*shape: int) -> NDArray[np.int8]:
    return np.ones(shape, np.int8)


def best_iou(boxes: NDArray[np.float32], wanted: list[int]) -> float:
    return float(iou(boxes.reshape(-1, 4), np.asarray([wanted], np.float32)).max())


def test_is_a_segmenter(segmenter: RegionTreeSegmenter) -> None:
    assert isinstance(segmenter, Segmenter)


@pytest.mark.parametrize(
    ("point", "wanted"), [((20, 30), RED), ((40, 50), YELLOW), ((120, 75), BLUE), ((40, 50), RED)]
)
def test_a_point_finds_its_square(
    segmenter: RegionTreeSegmenter, point: tuple[int, int], wanted: list[int]
) -> None:
    answer = segmenter.prompt_points(np.asarray([[point]], np.float32), ones(1, 1))
    assert best_iou(answer.boxes, wanted) > 0.9


def test_two_points_find_what_contains_both_and_background_is_left_out(
    segmenter: RegionTreeSegmenter,
) -> None:
    xy = np.asarray([[[20, 30], [40, 50]]], np.float32)
    joint = segmenter.prompt_points(xy, ones(1, 2), masks=True)
    assert joint.counts is not None
    masks = decode(joint.counts[0], 120, 160)
    assert masks[:, 30, 20].all() and masks[:, 50, 40].all()
    split = segmenter.prompt_points(xy, np.asarray([[1, 0]], np.int8), masks=True)
    assert split.counts is not None
    assert not decode(split.counts[0], 120, 160)[1, 50, 40]


def test_padding_has_no_influence(segmenter: RegionTreeSegmenter) -> None:
    plain = segmenter.prompt_points(np.asarray([[[20, 30]]], np.float32), ones(1, 1))
    padded = segmenter.prompt_points(
        np.asarray([[[-500, 9999], [20, 30]]], np.float32), np.asarray([[-1, 1]], np.int8)
    )
    np.testing.assert_array_equal(plain.boxes, padded.boxes)


@pytest.mark.parametrize("wanted", [RED, YELLOW, BLUE])
def test_a_box_finds_its_square(segmenter: RegionTreeSegmenter, wanted: list[int]) -> None:
    shifted = np.asarray([wanted], np.float32) + np.asarray([2, -2, 3, 1], np.float32)
    answer = segmenter.prompt_boxes(shifted, masks=True)
    assert best_iou(answer.boxes[:, 1], wanted) > 0.9
    assert answer.predicted_iou[0, 1] == answer.predicted_iou[0].max()


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 65])
def test_answers_are_consistent(segmenter: RegionTreeSegmenter, n: int) -> None:
    rng = np.random.default_rng(n)
    xy = (rng.random((n, 2, 2)) * (160, 120)).astype(np.float32)
    for answer in (
        segmenter.prompt_points(xy, ones(n, 2), masks=True),
        segmenter.prompt_boxes(np.concatenate([xy.min(1), xy.max(1) + 1], axis=1), masks=True),
    ):
        assert len(answer) == n
        assert answer.counts is not None
        for index in range(n):
            masks = decode(answer.counts[index], 120, 160)
            np.testing.assert_array_equal(tight_boxes(answer.counts[index], 120, 160), answer.boxes[index])
            np.testing.assert_array_equal(masks.sum(axis=(1, 2)), answer.area[index])
            assert (masks[0] <= masks[1]).all() and (masks[1] <= masks[2]).all()
        for values in (answer.predicted_iou, answer.stability):
            assert ((values >= 0) & (values <= 1)).all()


def test_proposals_are_ranked_distinct_and_few(segmenter: RegionTreeSegmenter) -> None:
    some = segmenter.grid_proposals(20, masks=True)
    assert 0 < len(some) <= 20
    assert some.counts is not None
    assert len(np.unique(some.boxes, axis=0)) == len(some)
    np.testing.assert_array_equal(tight_boxes(some.counts, 120, 160), some.boxes)
    for wanted in (RED, YELLOW, BLUE):
        assert best_iou(some.boxes, wanted) > 0.9


def test_deterministic() -> None:
    first, second = RegionTreeSegmenter(TreeSettings()), RegionTreeSegmenter(TreeSettings())
    for one in (first, second, first):
        one.set_image(squares())
    np.testing.assert_array_equal(first.grid_proposals(300).boxes, second.grid_proposals(300).boxes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 7), (9, 1), (3, 10_000), (10_000, 3)])
@pytest.mark.parametrize("kind", ["constant", "noise", "grey"])
def test_odd_images(shape: tuple[int, int], kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = {"constant": np.full_like(noise, 77), "noise": noise, "grey": noise[..., :1].repeat(3, axis=2)}[
        kind
    ]
    segmenter = RegionTreeSegmenter(TreeSettings())
    segmenter.set_image(image)
    corner = np.asarray([[[shape[1] - 1, shape[0] - 1]]], np.float32)
    answer = segmenter.prompt_points(corner, ones(1, 1))
    assert (answer.boxes[0, :, 2:] == (shape[1], shape[0])).all()
    whole = np.asarray([0, 0, shape[1], shape[0]], np.float32)
    np.testing.assert_array_equal(segmenter.prompt_boxes(whole[None]).boxes[0, 2], whole)
    assert len(segmenter.grid_proposals(300)) >= 1


def test_a_large_image_is_worked_on_at_reduced_size() -> None:
    factor = 4
    large = squares().repeat(factor, axis=0).repeat(factor, axis=1)
    segmenter = RegionTreeSegmenter(TreeSettings(max_pixels=120 * 160 + 100))
    segmenter.set_image(large[:-1, :-3])
    answer = segmenter.prompt_points(np.asarray([[[480, 300]]], np.float32), ones(1, 1), masks=True)
    assert answer.counts is not None
    np.testing.assert_array_equal(tight_boxes(answer.counts[0], 479, 637), answer.boxes[0])
    np.testing.assert_array_equal(decode(answer.counts[0], 479, 637).sum(axis=(1, 2)), answer.area[0])
    assert best_iou(answer.boxes, [edge * factor for edge in BLUE]) > 0.85


def test_a_point_outside_of_the_image_is_its_nearest_pixel(segmenter: RegionTreeSegmenter) -> None:
    outside, edge = (np.asarray([[[x, 75]]], np.float32) for x in (161, 159))
    np.testing.assert_array_equal(
        segmenter.prompt_points(outside, ones(1, 1)).boxes, segmenter.prompt_points(edge, ones(1, 1)).boxes
    )


def test_other_refusals() -> None:
    fresh = RegionTreeSegmenter(TreeSettings())
    with pytest.raises(ValueError, match="call set_image first"):
        fresh.grid_proposals(300)
    with pytest.raises(ValueError, match="uint8"):
        fresh.set_image(np.zeros((4, 4), np.uint8))


def test_recall_on_photographs(voc07_mini: Path) -> None:
    """A floor well below what the benchmark measures, so that a broken ranking is noticed."""
    from benchmarks.proposal_methods import image_names, load_objects, read_image, recalls

    found = []
    segmenter = RegionTreeSegmenter(TreeSettings())
    for name in image_names(voc07_mini, 6):
        segmenter.set_image(read_image(voc07_mini, name))
        found.append((load_objects(voc07_mini, name), segmenter.grid_proposals(300).boxes))
    assert recalls(found)[0] > 0.6
