from __future__ import annotations

import importlib.util
import pickle
import re
import sys
from enum import IntEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.exchange.helpers import image_boxes
from weaksam_cli.core.boxes import edges_to_inclusive
from weaksam_cli.data.pickles import pickle_bytes, read_pickle
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import detectron2, mmdet, wetectron
from weaksam_cli.exchange.formats import ImageBoxes, readers, writers

NAN = float("nan")


def through_a_file(content: Any, folder: Path) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(pickle_bytes(content))
    return read_pickle(path, calls=detectron2.CALLS)


def assert_same(
    found: list[ImageBoxes], expected: list[ImageBoxes], names: list[object] | None = None
) -> None:
    assert [item.name for item in found] == (names or [item.name for item in expected])
    for one, other in zip(found, expected, strict=True):
        assert one.boxes.dtype == np.float32 and one.boxes.shape == other.boxes.shape
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.predicted_iou, other.predicted_iou)


def published(oracle: Any) -> tuple[dict[str, Any], list[ImageBoxes]]:
    """The published converter's input, named as it names images, and its output."""
    case = oracle("proposals")["wetectron_pickle"]
    entries = [image_boxes(name, boxes) for name, boxes in zip(case["indexes"], case["input"], strict=True)]
    return case, entries


@pytest.mark.parametrize("image", [0, 2])
def test_wetectron_voc_as_published(oracle: Any, image: int) -> None:
    case, entries = published(oracle)
    content = wetectron.contents([entries[image]], coco=False)
    assert sorted(content) == sorted(case["keys"])
    assert content["boxes"][0].dtype == case["boxes_dtype"][image] == "uint16"
    assert content["boxes"][0].tolist() == case["boxes"][image]
    assert content["scores"][0].dtype == case["scores_dtype"][image] == "float32"
    assert content["scores"][0].tolist() == case["scores"][image]
    assert content["indexes"] == [case["indexes"][image]]


@pytest.mark.parametrize("coco", [False, True])
def test_what_the_published_converter_wraps_is_refused_with_the_image(oracle: Any, coco: bool) -> None:
    """70000 became 4464."""
    case, entries = published(oracle)
    assert case["boxes"][1][1][2] == 70000 % 65536
    with pytest.raises(UserError, match=r"image 2008000021: box 1 \(3 4 70000 9\).* would wrap"):
        wetectron.contents(entries, coco=coco)


@pytest.mark.parametrize(
    ("inclusive", "expected"),
    [
        ([0, 0, 65535, 65535], [0, 0, 65535, 65535]),
        ([-0.5, -0.99, 5.9, 6.2], [0, 0, 5, 6]),
        ([0, 0, 65536, 5], None),
        ([-1, 0, 5, 5], None),
        ([0, 0, 3, -1], None),
    ],
)
def test_the_range_of_16_bits(inclusive: list[float], expected: list[int] | None) -> None:
    entry = [image_boxes(3, [inclusive])]
    if expected is None:
        with pytest.raises(UserError, match="image 3: box 0"):
            wetectron.contents(entry, coco=False)
    else:
        assert wetectron.contents(entry, coco=False)["boxes"][0].tolist() == [expected]


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_wetectron_coco_is_sorted_float32_with_columns_of_scores(n: int) -> None:
    rows = [[1.75, 2, 30 + index, 40] for index in range(n)]
    content = wetectron.contents([image_boxes(9, rows), image_boxes(4, [[0, 0, 1, 1]])], coco=True)
    assert content["indexes"] == [4, 9]
    first, second = content["boxes"]
    assert first.tolist() == [[0, 0, 1, 1]]
    assert second.dtype == np.float32 and second.shape == (n, 4)
    assert second.tolist() == [[1, 2, 30 + index, 40] for index in range(n)]
    assert [item.shape for item in content["scores"]] == [(1, 1), (n, 1)]
    assert all(item.dtype == np.float32 for item in content["scores"])


def test_formats_are_found_by_listing() -> None:
    pickles = {"detectron2", "mmdet", "points", "wetectron-coco", "wetectron-voc"}
    assert {name for name, module in writers().items() if hasattr(module, "SCHEMA")} == pickles
    assert sorted(readers()) == ["detectron2", "mmdet", "points", "wetectron"]


def test_mmdet_is_inclusive_float32() -> None:
    content = mmdet.contents([image_boxes("a", [[1, 2, 3.5, 4]]), image_boxes("b", [])])
    assert [item.tolist() for item in content] == [[[1, 2, 3.5, 4]], []]
    assert all(item.dtype == np.float32 and item.shape[1:] == (4,) for item in content)


some_boxes = hnp.arrays(np.uint16, st.tuples(st.sampled_from([0, 1, 2, 6, 7]), st.just(4)))


@settings(max_examples=30)
@given(st.lists(some_boxes, max_size=4))
def test_whole_pixels_survive_every_format(
    tmp_path_factory: pytest.TempPathFactory, arrays: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    ordered = [np.sort(array.reshape(-1, 2, 2), axis=1).reshape(-1, 4) for array in arrays]
    entries = [image_boxes(number * 3 + 1, boxes) for number, boxes in enumerate(ordered)]
    for coco in (False, True):
        content = through_a_file(wetectron.contents(entries, coco=coco), folder)
        assert_same(wetectron.entries(content, where="w"), entries)
    found = detectron2.entries(through_a_file(detectron2.contents(entries), folder), where="d")
    assert_same(found, entries)
    names = [str(number) for number in range(len(entries))]
    bare = mmdet.entries(through_a_file(mmdet.contents(entries), folder), names, where="m")
    assert_same(bare, entries, list(names))


finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=30)
@given(
    hnp.arrays(np.float32, st.tuples(st.sampled_from([0, 1, 2, 6, 7]), st.just(5)), elements=finite),
    st.booleans(),
)
def test_detectron2_keeps_any_boxes_and_predicted_iou(
    tmp_path_factory: pytest.TempPathFactory, table: Any, known: bool
) -> None:
    iou = table[:, 4].copy() if known else np.full(len(table), np.nan, np.float32)
    entries = [ImageBoxes("a", table[:, :4].copy(), iou), image_boxes("b", [], [])]
    folder = tmp_path_factory.mktemp("detectron2")
    assert_same(detectron2.entries(through_a_file(detectron2.contents(entries), folder), where="d"), entries)


def test_one_unknown_estimate_makes_logits_an_order() -> None:
    content = detectron2.contents(
        [image_boxes("a", [[0, 0, 1, 1]] * 2, [0.25, 0.75]), image_boxes("b", [[0, 0, 1, 1]])]
    )
    assert [item.tolist() for item in content["objectness_logits"]] == [[0, -1], [0]]
    content = detectron2.contents([image_boxes("a", [[0, 0, 1, 1]] * 2, [0.25, 0.75]), image_boxes("b", [])])
    assert [item.tolist() for item in content["objectness_logits"]] == [[0.25, 0.75], []]


def load_through_detectron2(path: Path, names: list[Any]) -> list[dict[str, Any]]:
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2 is not installed")
    from weaksam_cli.detectron.compat import import_detectron2

    import_detectron2()
    from detectron2.data.build import load_proposals_into_dataset

    records: list[dict[str, Any]] = load_proposals_into_dataset(
        [{"image_id": name} for name in names], str(path)
    )
    return records


@pytest.mark.parametrize("known", [True, False])
def test_detectron2_reads_our_file(tmp_path: Path, known: bool) -> None:
    from_edges = np.asarray([[0, 0, 9.5, 7], [1, 2, 3, 4], [5, 5, 6, 6]], np.float32)
    iou = np.asarray([0.5, 0.9, 0.1] if known else [NAN] * 3, np.float32)
    path = tmp_path / "ours.pkl"
    content = detectron2.contents([ImageBoxes("000005", from_edges, iou), image_boxes(7, [], [])])
    path.write_bytes(pickle_bytes(content))
    first, second = load_through_detectron2(path, ["000005", 7])
    order = [1, 0, 2] if known else [0, 1, 2]
    np.testing.assert_array_equal(first["proposal_boxes"], from_edges[order])
    assert first["proposal_objectness_logits"].dtype == np.float32
    assert second["proposal_boxes"].shape == (0, 4)
    assert int(first["proposal_bbox_mode"]) == 0

    from detectron2.data.detection_utils import transform_proposals
    from detectron2.data.transforms import NoOpTransform, TransformList

    record = dict(first)
    transform_proposals(record, (20, 30), TransformList([NoOpTransform()]), proposal_topk=2)
    np.testing.assert_array_equal(record["proposals"].proposal_boxes.tensor.numpy(), from_edges[order][:2])


@unique
class BoxMode(IntEnum):
    """As detectron2 has it; it is written to files by name."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2


BOXES = np.asarray([[10, 20, 30, 40]], np.float32)
AS_WRITTEN: dict[str, tuple[dict[str, Any], list[float]]] = {
    "no mode is xyxy": ({}, [10, 20, 30, 40]),
    "0 is xyxy": ({"bbox_mode": 0}, [10, 20, 30, 40]),
    "1 is xywh": ({"bbox_mode": 1}, [10, 20, 40, 60]),
    "detectron2's enumeration": ({"bbox_mode": BoxMode.XYWH_ABS}, [10, 20, 40, 60]),
}


@pytest.mark.parametrize("name", list(AS_WRITTEN))
def test_box_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    more, expected = AS_WRITTEN[name]
    monkeypatch.setattr(BoxMode, "__module__", "detectron2.structures.boxes")
    monkeypatch.setitem(sys.modules, "detectron2.structures.boxes", sys.modules[__name__])
    path = tmp_path / "file.pkl"
    content = {"ids": ["a"], "boxes": [BOXES], "objectness_logits": [np.zeros(1)], **more}
    path.write_bytes(pickle.dumps(content))
    (found,) = detectron2.entries(read_pickle(path, calls=detectron2.CALLS), where="d")
    assert found.boxes.tolist() == [expected]
    assert np.isnan(found.predicted_iou).all()


@pytest.mark.parametrize(
    "content",
    [
        {"ids": [5], "boxes": [BOXES], "objectness_logits": [np.ones(1)]},
        {"indexes": np.asarray([5]), "boxes": (BOXES.astype(np.float64),), "scores": [np.ones(1)]},
        {"ids": (5,), "boxes": BOXES[None], "scores": np.ones((1, 1))},
    ],
)
def test_both_spellings_and_any_sequence(content: dict[str, Any]) -> None:
    (found,) = detectron2.entries(content, where="d")
    assert found.name == 5
    assert found.boxes.dtype == np.float32
    assert found.boxes.tolist() == BOXES.tolist()


@pytest.mark.parametrize("boxes", [np.array([]), np.zeros((0, 4), np.int64), np.zeros((0, 5))])
def test_no_boxes_in_any_shape(boxes: Any) -> None:
    (found,) = wetectron.entries({"indexes": [1], "boxes": [boxes]}, where="w")
    assert found.boxes.shape == (0, 4)


WRONG: dict[str, tuple[Any, str]] = {
    "a list": ([BOXES], "expected a dictionary with ids and boxes, got a list"),
    "nothing": (None, "got None"),
    "no ids": (
        {"boxes": [BOXES], "scores": [np.ones(1)]},
        "has no 'ids' or 'indexes'; its keys are 'boxes', 'scores'",
    ),
    "no boxes": ({"ids": [1], "scores": [np.ones(1)]}, "has no 'boxes'"),
    "no scores": ({"ids": [1], "boxes": [BOXES]}, "has no 'objectness_logits' or 'scores'"),
    "fewer boxes": (
        {"ids": [1, 2], "boxes": [BOXES], "scores": [np.ones(1)] * 2},
        "boxes has 1 entries for 2 images",
    ),
    "more scores": (
        {"ids": [1], "boxes": [BOXES], "scores": [np.ones(1)] * 2},
        "scores has 2 entries for 1 images",
    ),
    "ids are a number": ({"ids": 7, "boxes": [BOXES], "scores": []}, "ids: expected a list, got 7"),
    "boxes of five": (
        {"ids": [1], "boxes": [np.ones((2, 5))], "scores": [np.ones(2)]},
        r"image 1.*float64 \(2, 5\)",
    ),
    "a flat box": ({"ids": [1], "boxes": [np.ones(4)], "scores": [np.ones(1)]}, r"float64 \(4,\)"),
    "text boxes": ({"ids": [1], "boxes": [np.asarray([["1"] * 4])], "scores": [np.ones(1)]}, "<U1"),
    "a list of boxes": ({"ids": [1], "boxes": [[[1, 2], [3]]], "scores": [np.ones(1)]}, "got a list"),
    "NaN": ({"ids": [1], "boxes": [BOXES * NAN], "scores": [np.ones(1)]}, "no finite float32"),
    "too large": (
        {"ids": [1], "boxes": [BOXES * np.float64(1e300)], "scores": [np.ones(1)]},
        "no finite float32",
    ),
    "scores of others": (
        {"ids": [1], "boxes": [BOXES], "scores": [np.ones(2)]},
        r"expected 1 scores.*\(2,\)",
    ),
    "relative boxes": ({"ids": [1], "boxes": [BOXES], "scores": [np.ones(1)], "bbox_mode": 2}, "bbox_mode 2"),
    "a mode in words": (
        {"ids": [1], "boxes": [BOXES], "scores": [np.ones(1)], "bbox_mode": "xyxy"},
        "'xyxy'",
    ),
    "modes": ({"ids": [1], "boxes": [BOXES], "scores": [np.ones(1)], "bbox_mode": np.ones(2)}, "is not read"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_no_detectron2_file_is_refused_in_words(name: str) -> None:
    content, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        detectron2.entries(content, where="theirs.pkl")
    assert caught.value.where == "theirs.pkl"


@pytest.mark.parametrize("coco", [False, True])
def test_a_file_of_the_other_convention_is_not_taken_for_one_of_this(coco: bool) -> None:
    entries = [image_boxes(5, [[1, 2, 3, 4]]), image_boxes(6, [])]
    with pytest.raises(UserError, match="is a wetectron file"):
        detectron2.entries(wetectron.contents(entries, coco=coco), where="w")
    with pytest.raises(UserError, match="is a detectron2 file"):
        wetectron.entries(detectron2.contents(entries), where="d")
    with pytest.raises(UserError, match="is a detectron2 file"):
        wetectron.entries(
            {"indexes": [5], "boxes": [BOXES], "scores": [np.ones(1)], "bbox_mode": 0}, where="d"
        )


ONE = [[1.0, 2, 9, 8]]
TWO = [[1.0, 2, 9, 8], [3, 4, 5, 6]]
SCORED = [[1.0, 2, 9, 8, 0.1], [3, 4, 5, 6, 0.9]]
MMDET: list[tuple[Any, Any]] = [
    (np.asarray(SCORED, np.float32), TWO),
    (np.asarray(SCORED, np.float64), TWO),
    (np.asarray(TWO, np.float16), TWO),
    (SCORED, TWO),
    ([np.asarray(row, np.float32) for row in TWO], TWO),
    (np.zeros(0), []),
    (np.zeros((0, 4), np.float32), []),
    (np.zeros((0, 5), np.float32), []),
    ([], []),
    ([[], []], []),
    ([np.asarray(SCORED[:1]), np.zeros((0, 5)), np.asarray(SCORED[1:])], TWO[::-1]),
    ((np.asarray(ONE, np.float32), np.zeros(0)), ONE),
    ([SCORED, []], TWO[::-1]),
]


@pytest.mark.parametrize("number", range(len(MMDET)))
def test_what_mmdetection_writes_is_read(number: int, tmp_path: Path) -> None:
    """Kind N: arrays with scores, results by class, dictionaries by file name; scores are dropped."""
    raw, inclusive = MMDET[number]
    contents: list[tuple[Any, list[str] | None]] = [
        ([raw], ["a"]),
        ({"/data/a.jpg": raw}, None),
        ({"a.jpg": raw}, ["b"]),
        ((raw,), ["a"]),
    ]
    for content, names in contents:
        (found,) = mmdet.entries(through_a_file(content, tmp_path), names, where="m")
        assert (found.boxes - [0, 0, 1, 1]).tolist() == inclusive
        assert np.isnan(found.predicted_iou).all()
        assert found.boxes.dtype == np.float32


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((2, 6)),
        np.zeros((2, 3)),
        np.zeros(4),
        [[1, 2, 3]],
        [[1, 2, 3, 4], [1]],
        "ab",
        None,
        [["a"] * 4],
    ],
)
def test_what_is_no_table_of_boxes(raw: Any) -> None:
    with pytest.raises(
        UserError, match=r"image 'a': expected boxes as an array of numbers \(n, 4\) or \(n, 5\), got"
    ):
        mmdet.entries([raw], ["a"], where="m")


def test_images_of_equally_many_boxes_may_be_one_array() -> None:
    found = mmdet.entries(np.asarray([SCORED, SCORED], np.float32), ["a", "b"], where="m")
    assert [(item.boxes - [0, 0, 1, 1]).tolist() for item in found] == [TWO, TWO]


def test_a_bare_list_needs_names() -> None:
    with pytest.raises(UserError, match="a bare list: which images is it of"):
        mmdet.entries([BOXES], None, where="m")


def test_mmdet_of_another_list() -> None:
    with pytest.raises(UserError, match=re.escape("holds boxes of 1 images, and the list names 2")):
        mmdet.entries([BOXES], ["a", "b"], where="m")
    with pytest.raises(UserError, match="is a file of detectron2 or wetectron"):
        mmdet.entries({"boxes": [BOXES]}, ["a"], where="m")


def test_inclusive_indexes_of_one_pixel() -> None:
    (found,) = mmdet.entries([np.asarray([[3, 4, 3, 4]])], ["a"], where="m")
    assert found.boxes.tolist() == [[3, 4, 4, 5]]
    assert edges_to_inclusive(found.boxes).tolist() == [[3, 4, 3, 4]]
