from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from weaksam_cli.artifacts import hdf5, open_artifact
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import (
    CLUE_SOURCES,
    PROPOSALS,
    SOURCES,
    Proposals,
    Source,
    keep_best,
    proposals_to_rows,
    read_proposals,
)
from weaksam_cli.artifacts.schema import ImageRows, concatenate
from weaksam_cli.core.boxes import edges_to_inclusive, inclusive_to_edges, score_free_nms
from weaksam_cli.core.types import PromptedMasks
from weaksam_cli.errors import UserError


def of_boxes(boxes: Any, source: Source) -> Proposals:
    edges = inclusive_to_edges(np.asarray(boxes, np.float32).reshape(-1, 4))
    n = len(edges)
    return Proposals(
        edges,
        np.full(n, SOURCES.index(source), np.int8),
        np.arange(n, dtype=np.int32),
        np.zeros(n, np.int8),
        np.ones(n, np.float32),
        np.ones(n, np.float32),
    )


def prompted(n: int, *, masks: bool = False, empty: tuple[tuple[int, int], ...] = ()) -> PromptedMasks:
    corner = np.arange(n * 3, dtype=np.float32).reshape(n, 3, 1)
    boxes = np.concatenate([corner, corner, corner + 5, corner + 5], axis=2)
    area = np.full((n, 3), 25, np.int64)
    for row, column in empty:
        boxes[row, column] = 0
        area[row, column] = 0
    counts = [[f"{row}{column}".encode() for column in range(3)] for row in range(n)] if masks else None
    quality = (corner[..., 0] / 100).astype(np.float32)
    return PromptedMasks(boxes, area, quality, quality, counts)


@pytest.mark.parametrize("image", [0, 1, 2])
def test_concatenation_in_the_published_order_without_its_doubling(oracle: Any, image: int) -> None:
    case = oracle("proposals")["concatenation"]
    parts = [of_boxes(case[source][image], source) for source in ("grid", *CLUE_SOURCES)]
    found = edges_to_inclusive(Proposals.concatenate(parts).boxes)
    # Image 1 has nothing from the grid: the published code stores the first box of `coarse` twice.
    expected = case["output"][image][1:] if image == 1 else case["output"][image]
    np.testing.assert_array_equal(found, expected)


def test_prompt_major_mask_minor_order(oracle: Any) -> None:
    case = oracle("proposals")["mask_to_box_nested"]
    nested = np.asarray(case["boxes"], np.float32)
    padded = np.concatenate(
        [np.zeros_like(nested[:, :1]), inclusive_to_edges(nested.reshape(-1, 4)).reshape(2, 2, 4)], 1
    )
    ones = np.ones((2, 3), np.float32)
    found = Proposals.from_prompted(
        PromptedMasks(padded, np.ones((2, 3), np.int64), ones, ones), "fine", first_mask=False
    )
    np.testing.assert_array_equal(edges_to_inclusive(found.boxes), case["flattened_row_major"])
    assert found.prompt.tolist() == [0, 0, 1, 1] and found.mask_token.tolist() == [1, 2, 1, 2]
    assert set(found.source.tolist()) == {SOURCES.index("fine")}


@pytest.mark.parametrize("case", range(7))
def test_score_free_nms_on_pixel_edges(oracle: Any, case: int) -> None:
    """Areas of pixel edges equal those of inclusive indexes with +1."""
    data = oracle("proposals")["score_free_nms"]["cases"][case]
    proposals = of_boxes(data["boxes"], "cross")
    kept = proposals.take(score_free_nms(proposals.boxes, data["threshold"], plus_one=False))
    expected = np.asarray(data["kept"], np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(edges_to_inclusive(kept.boxes), expected)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("masks", [False, True])
def test_take_and_concatenate_are_inverse(n: int, masks: bool) -> None:
    whole = Proposals.from_prompted(prompted(n, masks=masks), "grid")
    assert len(whole) == 3 * n
    odd = np.arange(len(whole)) % 2 == 1
    parts = [whole.take(odd), whole.take(~odd), whole.take(odd[:0])]
    joined = Proposals.concatenate(parts)
    order = np.lexsort((joined.mask_token, joined.prompt))
    again = joined.take(order)
    np.testing.assert_array_equal(again.boxes, whole.boxes)
    assert again.counts == whole.counts


def test_empty_masks_are_dropped() -> None:
    found = Proposals.from_prompted(
        prompted(3, masks=True, empty=((0, 1), (2, 0), (2, 2))), "cross", first_mask=False
    )
    assert list(zip(found.prompt.tolist(), found.mask_token.tolist(), strict=True)) == [
        (0, 2),
        (1, 1),
        (1, 2),
        (2, 1),
    ]
    assert found.counts == [b"02", b"11", b"12", b"21"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((2, 5), np.float32)}, "boxes"),
        ({"source": np.full(2, 6, np.int8)}, "source: expected 0 to 5"),
        ({"source": np.zeros(3, np.int8)}, r"source: expected shape \(2,\)"),
        ({"mask_token": np.full(2, 3, np.int8)}, "mask_token: expected 0 to 2"),
        ({"prompt": np.full(2, -1, np.int32)}, "prompt"),
        ({"stability": np.zeros((2, 1), np.float32)}, "stability"),
        ({"counts": [b"x"]}, "expected 2 masks, got 1"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {
        "boxes": np.zeros((2, 4), np.float32),
        "source": np.zeros(2, np.int8),
        "prompt": np.zeros(2, np.int32),
        "mask_token": np.zeros(2, np.int8),
        "predicted_iou": np.zeros(2, np.float32),
        "stability": np.zeros(2, np.float32),
    }
    with pytest.raises(ValueError, match=message):
        Proposals(**columns | change)


def test_masks_for_some_parts_only_are_refused() -> None:
    with_masks = Proposals.from_prompted(prompted(1, masks=True), "grid")
    without = Proposals.from_prompted(prompted(1), "grid")
    with pytest.raises(ValueError, match="some parts have masks"):
        Proposals.concatenate([with_masks, without])


def scored(source: Source, scores: list[float]) -> Proposals:
    return Proposals.from_boxes(
        np.zeros((len(scores), 4), np.float32), source, np.asarray(scores, np.float32)
    )


@pytest.mark.parametrize(
    ("most", "kept"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        (9, [0, 1, 2, 3, 4, 5, 6]),
        (6, [0, 1, 3, 4, 5, 6]),
        (5, [0, 3, 4, 5, 6]),
        (4, [0, 4, 5, 6]),
        (3, [4, 5, 6]),
        (2, [4, 5]),
        (1, [5]),
        (0, []),
    ],
)
def test_boxes_of_clues_are_kept_before_those_of_the_grid(most: int | None, kept: list[int]) -> None:
    """The grid's boxes come first in an artifact, and its scores are as high: neither may push out a clue's box."""
    every = Proposals.concatenate(
        [scored("grid", [0.99, 0.7, np.nan, 0.8]), scored("fine", [0.5]), scored("cross", [0.6, 0.4])]
    )
    found = keep_best(every, most)
    positions = list(range(len(every))) if most is None else kept
    np.testing.assert_array_equal(found.predicted_iou, every.predicted_iou[positions])
    np.testing.assert_array_equal(found.source, every.source[positions])


def test_of_boxes_without_a_score_the_first_are_kept() -> None:
    every = Proposals.from_boxes(np.arange(24, dtype=np.float32).reshape(6, 4), "search")
    np.testing.assert_array_equal(keep_best(every, 2).boxes, every.boxes[:2])


@pytest.mark.parametrize("n", [0, 1, 7])
def test_what_is_written_is_read_back_by_the_files_own_table(tmp_path: Path, n: int) -> None:
    every = Proposals.from_prompted(prompted(n, masks=True), "fine")
    attributes = {"format": PROPOSALS.name, "format_version": PROPOSALS.version, "complete": True}
    other_table = {"source_names": SOURCES[::-1]}
    with h5py.File(tmp_path / "p.h5", "w") as handle:
        hdf5.create(handle, PROPOSALS, attributes, other_table)
        hdf5.append(handle, PROPOSALS, concatenate(PROPOSALS, [("a", proposals_to_rows(every, (30, 40)))]))
    with open_artifact(tmp_path / "p.h5", PROPOSALS) as artifact:
        found = read_proposals(artifact, "a")
        assert artifact.image_value("a", "image_size").tolist() == [30, 40]
        assert [item.tobytes() for item in artifact.blobs("a", "masks")] == every.counts
    np.testing.assert_array_equal(found.source, len(SOURCES) - 1 - every.source)
    for name in ("boxes", "prompt", "mask_token", "predicted_iou", "stability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(every, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[0, 0, np.nan, 5]]}, "not finite"),
        ({"boxes": [[-9, 0, 5, 5]]}, "leaves the image of 40 x 30"),
        ({"boxes": [[0, 0, 5, 32]]}, "leaves the image of 40 x 30"),
        ({"source": [99]}, "column source: expected values from 0 to 5"),
        ({"boxes": [[9, 0, 3, 5]]}, "expected x1 <= x2"),
        ({"mask_token": [9]}, "mask_token"),
    ],
)
def test_a_file_with_boxes_that_are_none_is_refused(
    tmp_path: Path, changes: dict[str, list[object]], message: str
) -> None:
    """Negative sides and NaN in the proposals of others were read as they were."""
    rows = proposals_to_rows(Proposals.from_boxes(np.asarray([[1, 2, 3, 4]], np.float32), "search"), (30, 40))
    wrong = {name: np.asarray(values, rows.columns[name].dtype) for name, values in changes.items()}
    rows = ImageRows({**rows.columns, **wrong}, rows.image, rows.blobs)
    attributes = {"format": PROPOSALS.name, "format_version": PROPOSALS.version, "complete": True}
    with h5py.File(tmp_path / "p.h5", "w") as handle:
        hdf5.create(handle, PROPOSALS, attributes, {"source_names": SOURCES})
        hdf5.append(handle, PROPOSALS, concatenate(PROPOSALS, [("a", rows)]))
    with open_artifact(tmp_path / "p.h5", PROPOSALS) as artifact, pytest.raises(UserError, match=message):
        read_proposals(artifact, "a")


def test_a_file_with_points_without_a_value_is_refused(tmp_path: Path) -> None:
    columns = {column.name: np.zeros((1, *column.shape), column.dtype) for column in POINTS.columns}
    columns["value"][:] = np.nan
    rows = ImageRows(columns, {"image_size": np.asarray([30, 40], np.int32)})
    attributes = {"format": POINTS.name, "format_version": POINTS.version, "complete": True}
    with h5py.File(tmp_path / "p.h5", "w") as handle:
        hdf5.create(handle, POINTS, attributes, {"kind_names": ["coarse"], "class_names": ["cat"]})
        hdf5.append(handle, POINTS, concatenate(POINTS, [("a", rows)]))
    with open_artifact(tmp_path / "p.h5", POINTS) as artifact, pytest.raises(UserError, match="finite"):
        read_points(artifact, "a")
