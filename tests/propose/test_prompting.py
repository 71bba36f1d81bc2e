from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import nms as torchvision_nms

from weaksam_cli.artifacts.proposals import SOURCES, Proposals
from weaksam_cli.core.boxes import FloatArray, edges_to_inclusive, inclusive_to_edges
from weaksam_cli.core.types import Points, PromptedMasks
from weaksam_cli.propose.prompting import (
    PADDING,
    PromptingSettings,
    assemble,
    check_image,
    filter_grid,
    grid_points,
    group_by_class,
    pad_prompts,
    without_repeats,
)
from weaksam_cli.propose.stage import ClueSettings


class SquareSegmenter:
    """Answers with squares of side 4, 8 and 16 around the mean of the points, and remembers what it was asked."""

    def __init__(self) -> None:
        self.encodings = 0
        self.asked: list[list[list[list[float]]]] = []
        self.height = self.width = 0

    def set_image(self, image: NDArray[np.uint8]) -> None:
        check_image(image)
        self.encodings += 1
        self.height, self.width = image.shape[:2]

    def prompt_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], *, masks: bool = False, **_: object
    ) -> PromptedMasks:
        rows = [points[kinds != PADDING] for points, kinds in zip(xy, labels, strict=True)]
        if rows:
            self.asked.append([row.tolist() for row in rows])
        centres = np.asarray([row.mean(axis=0) for row in rows], np.float32).reshape(-1, 1, 2)
        half = np.asarray([2, 4, 8], np.float32)[None, :, None]
        boxes = np.concatenate([np.floor(centres - half), np.floor(centres + half)], axis=2)
        quality = np.tile(np.asarray([0.9, 0.8, 0.7], np.float32), (len(rows), 1))
        area = np.full((len(rows), 3), 9, np.int64)
        counts = [[b"a", b"b", b"c"] for _ in rows] if masks else None
        return PromptedMasks(boxes.astype(np.float32), area, quality, quality, counts)

    def prompt_boxes(
        self, boxes: FloatArray, *, masks: bool = False, multimask: bool = True
    ) -> PromptedMasks:
        raise NotImplementedError


def make_points(xy: list[tuple[int, int]], classes: list[int]) -> Points:
    n = len(xy)
    return Points(
        np.asarray(xy, np.int32).reshape(n, 2),
        np.asarray(classes, np.int32),
        np.ones(n, np.float32),
        np.zeros(n, np.int16),
    )


IMAGE = np.zeros((64, 96, 3), np.uint8)
POINTS = make_points([(50, 60), (70, 20), (52, 61)], [3, 5, 3])
NO_GRID = PromptingSettings(points_per_side=0)


def test_groups_follow_the_published_reader(oracle: Any) -> None:
    for case in oracle("proposals")["point_file_reader"]["cases"]:
        rows = [line.split() for line in case["text"].splitlines()]
        points = make_points([(int(row[0]), int(row[1])) for row in rows], [int(row[2]) for row in rows])
        groups = group_by_class(points.class_index)
        expected = (case["result"] or {}).get("by_class") or {}
        assert [points.xy[group].tolist() for group in groups] == list(expected.values()), case["name"]


def test_points_alone_then_classes_in_order_of_appearance() -> None:
    segmenter = SquareSegmenter()
    found = assemble(segmenter, NO_GRID, IMAGE, {"fine": POINTS})
    a, b, c = [50.0, 60.0], [70.0, 20.0], [52.0, 61.0]
    assert segmenter.asked == [[[a], [b], [c], [a, c], [b]]]
    assert found.prompt.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.mask_token.tolist() == [1, 2] * 5


def test_cross_points_make_no_groups_and_are_thinned() -> None:
    segmenter = SquareSegmenter()
    twice = make_points([(50, 30), (50, 30), (20, 30)], [3, 3, -1])
    found = assemble(segmenter, NO_GRID, IMAGE, {"cross": twice})
    assert len(segmenter.asked[0]) == 3
    assert found.prompt.tolist() == [0, 0, 2, 2]
    unthinned = PromptingSettings(points_per_side=0, cross_nms=1.0)
    assert len(assemble(SquareSegmenter(), unthinned, IMAGE, {"cross": twice})) == 6


class GivenBoxes(SquareSegmenter):
    """Answers each prompt with the next given box of inclusive pixel indexes, three times."""

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = inclusive_to_edges(np.asarray(boxes, np.float32).reshape(-1, 4))

    def prompt_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], *, masks: bool = False, **_: object
    ) -> PromptedMasks:
        ones = np.ones((len(xy), 3), np.float32)
        boxes = np.repeat(self.boxes[: len(xy), None], 3, axis=1)
        return PromptedMasks(boxes, np.ones((len(xy), 3), np.int64), ones, ones)


@pytest.mark.parametrize("case", range(7))
def test_cross_proposals_are_thinned_as_published(oracle: Any, case: int) -> None:
    data = oracle("proposals")["score_free_nms"]["cases"][case]
    points = make_points([(i, i) for i in range(len(data["boxes"]))], [-1] * len(data["boxes"]))
    settings = PromptingSettings(points_per_side=0, cross_nms=data["threshold"])
    found = assemble(GivenBoxes(data["boxes"]), settings, IMAGE, {"cross": points})
    expected = np.asarray(data["kept"], np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(edges_to_inclusive(found.boxes), expected)


def test_groups_by_first_appearance_leave_out_points_without_class() -> None:
    groups = group_by_class(np.asarray([7, -1, 2, 7, -1, 0], np.int32))
    assert [group.tolist() for group in groups] == [[0, 3], [2], [5]]
    assert group_by_class(np.zeros(0, np.int32)) == []


def test_first_mask_switch() -> None:
    settings = PromptingSettings(points_per_side=0, clues=ClueSettings(first_mask=True))
    found = assemble(SquareSegmenter(), settings, IMAGE, {"coarse": make_points([(9, 9)], [0])})
    assert found.mask_token.tolist() == [0, 1, 2] * 2


def test_sources_in_order_with_one_encoding() -> None:
    segmenter = SquareSegmenter()
    # The order of the table does not matter.
    sources = {"cross": POINTS, "fine": POINTS, "coarse": POINTS}
    settings = PromptingSettings(points_per_side=4, masks=True)
    found = assemble(segmenter, settings, IMAGE, sources)  # type: ignore[arg-type]
    assert segmenter.encodings == 1
    assert (np.diff(found.source) >= 0).all() and set(found.source.tolist()) == {0, 1, 2, 3}
    assert found.counts is not None and len(found.counts) == len(found)
    grid = found.take(found.source == SOURCES.index("grid"))
    assert len(segmenter.asked[0]) == 16 and 0 in grid.mask_token.tolist()
    assert segmenter.asked[0][1] == [[36.0, 8.0]]


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("masks", [False, True])
def test_every_number_of_points(n: int, masks: bool) -> None:
    points = make_points([(7 * i, 5 * i) for i in range(n)], [i % 2 for i in range(n)])
    sources = {"coarse": points, "fine": points, "cross": points}
    settings = PromptingSettings(points_per_side=0, masks=masks)
    found = assemble(SquareSegmenter(), settings, IMAGE, sources)  # type: ignore[arg-type]
    assert [int((found.source == s).sum()) for s in (1, 2)] == [2 * (n + min(n, 2))] * 2
    assert (found.counts is not None) == masks


def test_nothing_passes_the_grid_filter() -> None:
    settings = PromptingSettings(points_per_side=3, predicted_iou=0.95)
    found = assemble(SquareSegmenter(), settings, IMAGE, {"coarse": make_points([(9, 9)], [0])})
    assert found.source.tolist() == [1] * 4


def last_steps(**settings: Any) -> Proposals:
    chosen = PromptingSettings(points_per_side=3, nms=1.0, clues=ClueSettings(first_mask=True), **settings)
    return assemble(SquareSegmenter(), chosen, IMAGE, {"coarse": POINTS, "fine": POINTS})


def test_of_equal_boxes_the_first_stays() -> None:
    every, unique = last_steps(), last_steps(deduplicate=True)
    assert len(every) == 27 + 30
    assert len(unique) == 27 + 12 and set(unique.source.tolist()) == {0, 1}
    assert unique.prompt[27:].tolist() == sorted(unique.prompt[27:].tolist())


@pytest.mark.parametrize("most", [1, 7, 30, 31, 57, 100])
def test_the_boxes_of_clues_are_the_last_to_go(most: int) -> None:
    every, best = last_steps(), last_steps(max_proposals=most)
    assert len(best) == min(most, 57)
    assert (best.source > 0).sum() == min(most, 30)
    positions = [
        int(np.flatnonzero((every.source == one) & (every.prompt == two) & (every.mask_token == three))[0])
        for one, two, three in zip(best.source, best.prompt, best.mask_token, strict=True)
    ]
    assert positions == sorted(positions), "the order stays"


def test_every_box_of_the_grid_suppresses_also_one_that_another_would_suppress() -> None:
    """The second box of the grid (IoU 0.95) would go in NMS over the joined list, and the first clue (0.88, 0.93) stay."""
    grid = np.asarray([[0, 0, 100, 100], [0, 0, 100, 95]], np.float32)
    clues = Proposals.from_boxes(
        np.asarray([[0, 0, 100, 88], [50, 50, 60, 60], [50, 50, 60, 60], [0, 0, 100, 85]], np.float32), "fine"
    )
    kept = without_repeats(clues, grid, 0.9)
    assert kept.prompt.tolist() == [1, 3]
    assert without_repeats(clues, grid[:0], 0.9).prompt.tolist() == [0, 1]
    assert without_repeats(clues, grid, 1.0).prompt.tolist() == [0, 1, 2, 3]
    assert len(without_repeats(clues.take(np.zeros(4, bool)), grid, 0.9)) == 0


def test_padding() -> None:
    xy, labels = pad_prompts(
        np.asarray([[1, 2], [3, 4], [5, 6]], np.float32), [np.asarray([1]), np.asarray([0, 2])]
    )
    assert xy.shape == (2, 2, 2) and labels.tolist() == [[1, -1], [1, 1]]
    assert xy[0, 0].tolist() == [3, 4] and xy[1].tolist() == [[1, 2], [5, 6]]
    empty, none = pad_prompts(np.zeros((0, 2), np.float32), [])
    assert empty.shape == (0, 0, 2) and none.shape == (0, 0)


def of_quality(boxes: Any, quality: Any, stability: Any | None = None) -> Proposals:
    n = len(boxes)
    return Proposals(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.zeros(n, np.int8),
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int8),
        np.asarray(quality, np.float32),
        np.ones(n, np.float32) if stability is None else np.asarray(stability, np.float32),
    )


def test_published_points(oracle: Any) -> None:
    case = oracle("proposals")["point_grid"]
    np.testing.assert_array_equal(grid_points(2, 1, 1), case["n2"])
    points = grid_points(32, 1, 1)
    assert len(points) == case["n32_count"]
    np.testing.assert_array_equal(points[:3], case["n32_first3"])
    np.testing.assert_array_equal(points[-1], case["n32_last"])


def test_points_scale_with_width_and_height() -> None:
    np.testing.assert_array_equal(grid_points(2, 100, 40), [[10, 25], [30, 25], [10, 75], [30, 75]])
    assert grid_points(0, 10, 10).shape == (0, 2)
    assert grid_points(1, 9, 5).tolist() == [[2.5, 4.5]]


def test_thresholds_are_strict_for_quality_and_not_for_stability() -> None:
    apart = [[20 * i, 0, 20 * i + 10, 10] for i in range(6)]
    quality = [0.3, 0.31, 0.9, 0.9, 0.9, -1.0]
    stability = [0.9, 0.3, 0.29, np.nan, 0.5, 0.9]
    kept = filter_grid(of_quality(apart, quality, stability), PromptingSettings())
    assert kept.prompt.tolist() == [4, 1]


def test_iou_of_exactly_the_threshold_is_suppressed_as_by_torchvision() -> None:
    """Inclusive boxes (0,0,10,10) and (0,0,10,3): 30/100, which in float32 is above 0.3."""
    boxes = [[0, 0, 11, 11], [0, 0, 11, 4]]
    assert len(filter_grid(of_quality(boxes, [0.9, 0.8]), PromptingSettings(nms=0.3))) == 1
    assert len(filter_grid(of_quality(boxes, [0.9, 0.8]), PromptingSettings(nms=0.31))) == 2


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_every_number_of_proposals(n: int) -> None:
    boxes = [[i, i, i + 30, i + 30] for i in range(n)]
    assert len(filter_grid(of_quality(boxes, np.linspace(0.4, 0.9, n)), PromptingSettings())) == min(n, 1)


BOXES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 10), st.integers(1, 10)),
    min_size=0,
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(BOXES, st.sampled_from([0.3, 0.5, 0.7, 0.25]), st.integers(0, 2**31))
def test_agrees_with_torchvision(
    corners: list[tuple[int, int, int, int]], threshold: float, seed: int
) -> None:
    boxes = np.asarray([(x, y, x + w, y + h) for x, y, w, h in corners], np.float32).reshape(-1, 4)
    quality = np.random.default_rng(seed).permutation(len(boxes)).astype(np.float32) + 1
    kept = filter_grid(of_quality(boxes, quality), PromptingSettings(nms=threshold))
    expected = torchvision_nms(
        torch.from_numpy(edges_to_inclusive(boxes)), torch.from_numpy(quality), threshold
    )
    assert kept.prompt.tolist() == expected.tolist()
