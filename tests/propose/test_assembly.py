from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import SOURCES
from weaksam_cli.core.boxes import FloatArray, edges_to_inclusive, inclusive_to_edges
from weaksam_cli.core.types import Points, PromptedMasks
from weaksam_cli.propose.assembly import AssemblySettings, assemble, finish, group_by_class, pad_prompts
from weaksam_cli.propose.grid import GridFilter
from weaksam_cli.propose.segmenter import PADDING, check_image, check_points


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
        check_points(xy, labels)
        rows = [points[kinds != PADDING] for points, kinds in zip(xy, labels, strict=True)]
        self.asked.append([row.tolist() for row in rows])
        centres = np.asarray([row.mean(axis=0) for row in rows], np.float32).reshape(-1, 1, 2)
        half = np.asarray([2, 4, 8], np.float32)[None, :, None]
        boxes = np.concatenate([np.floor(centres - half), np.floor(centres + half)], axis=2)
        quality = np.tile(np.asarray([0.9, 0.8, 0.7], np.float32), (len(rows), 1))
        area = np.full((len(rows), 3), 9, np.int64)
        counts = [[b"a", b"b", b"c"] for _ in rows] if masks else None
        return PromptedMasks(boxes.astype(np.float32), area, quality, quality, counts)

    def prompt_boxes(self, boxes: FloatArray, *, masks: bool = False) -> PromptedMasks:
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
NO_GRID = AssemblySettings(points_per_side=0)


def test_groups_follow_the_published_reader(oracle: Any) -> None:
    for case in oracle("proposals")["point_file_reader"]["cases"]:
        rows = [line.split() for line in case["text"].splitlines()]
        points = make_points([(int(row[0]), int(row[1])) for row in rows], [int(row[2]) for row in rows])
        groups = group_by_class(points.class_index)
        expected = (case["result"] or {}).get("by_class") or {}
        assert [points.xy[group].tolist() for group in groups] == list(expected.values()), case["name"]


def test_points_alone_then_classes_in_order_of_appearance() -> None:
    segmenter = SquareSegmenter()
    found = assemble(segmenter, IMAGE, {"fine": POINTS}, NO_GRID)
    a, b, c = [50.0, 60.0], [70.0, 20.0], [52.0, 61.0]
    assert segmenter.asked == [[[a], [b], [c], [a, c], [b]]]
    assert found.prompt.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.mask_token.tolist() == [1, 2] * 5


def test_cross_points_make_no_groups_and_are_thinned() -> None:
    segmenter = SquareSegmenter()
    twice = make_points([(50, 30), (50, 30), (20, 30)], [3, 3, -1])
    found = assemble(segmenter, IMAGE, {"cross": twice}, NO_GRID)
    assert len(segmenter.asked[0]) == 3
    assert found.prompt.tolist() == [0, 0, 2, 2]
    unthinned = AssemblySettings(points_per_side=0, score_free_nms={})
    assert len(assemble(SquareSegmenter(), IMAGE, {"cross": twice}, unthinned)) == 6


class GivenBoxes(SquareSegmenter):
    """Answers each prompt with the next given box of inclusive pixel indexes, three times."""

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = inclusive_to_edges(np.asarray(boxes, np.float32).reshape(-1, 4))

    def prompt_points(
        self, xy: NDArray[np.float32], labels: NDArray[np.int8], *, masks: bool = False, **_: object
    ) -> PromptedMasks:
        ones = np.ones((len(xy), 3), np.float32)
        return PromptedMasks(
            np.repeat(self.boxes[:, None], 3, axis=1), np.ones((len(xy), 3), np.int64), ones, ones
        )


@pytest.mark.parametrize("case", range(7))
def test_cross_proposals_are_thinned_as_published(oracle: Any, case: int) -> None:
    data = oracle("proposals")["score_free_nms"]["cases"][case]
    points = make_points([(i, i) for i in range(len(data["boxes"]))], [-1] * len(data["boxes"]))
    settings = AssemblySettings(points_per_side=0, score_free_nms={"cross": data["threshold"]})
    found = assemble(GivenBoxes(data["boxes"]), IMAGE, {"cross": points}, settings)
    expected = np.asarray(data["kept"], np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(edges_to_inclusive(found.boxes), expected)


def test_groups_by_first_appearance_leave_out_points_without_class() -> None:
    groups = group_by_class(np.asarray([7, -1, 2, 7, -1, 0], np.int32))
    assert [group.tolist() for group in groups] == [[0, 3], [2], [5]]
    assert group_by_class(np.zeros(0, np.int32)) == []


def test_first_mask_switch() -> None:
    settings = AssemblySettings(points_per_side=0, first_mask=True)
    found = assemble(SquareSegmenter(), IMAGE, {"coarse": make_points([(9, 9)], [0])}, settings)
    assert found.mask_token.tolist() == [0, 1, 2] * 2


def test_sources_in_order_with_one_encoding() -> None:
    segmenter = SquareSegmenter()
    # The order of the table does not matter.
    sources = {"cross": POINTS, "fine": POINTS, "coarse": POINTS}
    settings = AssemblySettings(points_per_side=4)
    found = assemble(segmenter, IMAGE, sources, settings, masks=True)  # type: ignore[arg-type]
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
    found = assemble(SquareSegmenter(), IMAGE, sources, NO_GRID, masks=masks)  # type: ignore[arg-type]
    assert [int((found.source == s).sum()) for s in (1, 2)] == [2 * (n + min(n, 2))] * 2
    assert (found.counts is not None) == masks


def test_nothing_passes_the_grid_filter() -> None:
    settings = AssemblySettings(points_per_side=3, grid_filter=GridFilter(predicted_iou=0.95))
    found = assemble(SquareSegmenter(), IMAGE, {"coarse": make_points([(9, 9)], [0])}, settings)
    assert found.source.tolist() == [1] * 4


@pytest.mark.parametrize("source", ["grid", "deep"])
def test_unknown_source(source: Any) -> None:
    with pytest.raises(ValueError, match="expected the sources"):
        assemble(SquareSegmenter(), IMAGE, {source: POINTS}, NO_GRID)


def test_last_steps_keep_the_order() -> None:
    settings = AssemblySettings(points_per_side=0, first_mask=True)
    every = assemble(SquareSegmenter(), IMAGE, {"coarse": POINTS, "fine": POINTS}, settings)
    assert finish(every, settings) is every
    unique = finish(every, AssemblySettings(deduplicate=True))
    assert len(unique) == 12 and set(unique.source.tolist()) == {1}
    assert unique.prompt.tolist() == sorted(unique.prompt.tolist())
    best = finish(every, AssemblySettings(max_proposals=7))
    assert set(best.predicted_iou.tolist()) == {np.float32(0.9)}
    assert list(zip(best.source, best.prompt, strict=True)) == sorted(
        zip(best.source, best.prompt, strict=True)
    )
    for limit in (0, 1, 100):
        assert len(finish(every, AssemblySettings(max_proposals=limit))) == min(limit, 30)


def test_padding() -> None:
    xy, labels = pad_prompts(
        np.asarray([[1, 2], [3, 4], [5, 6]], np.float32), [np.asarray([1]), np.asarray([0, 2])]
    )
    assert xy.shape == (2, 2, 2) and labels.tolist() == [[1, -1], [1, 1]]
    assert xy[0, 0].tolist() == [3, 4] and xy[1].tolist() == [[1, 2], [5, 6]]
    empty, none = pad_prompts(np.zeros((0, 2), np.float32), [])
    assert empty.shape == (0, 0, 2) and none.shape == (0, 0)
