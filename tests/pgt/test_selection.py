from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.core.boxes import as_boxes, xywh_to_xyxy, xyxy_to_xywh
from weaksam_cli.core.types import Detections
from weaksam_cli.pgt.adaptive import adaptive_rows, relative_scores
from weaksam_cli.pgt.annotations import coco_annotations
from weaksam_cli.pgt.containment import contained, containment
from weaksam_cli.pgt.table import DetectionTable, filter_classes
from weaksam_cli.pgt.top1 import top_k

CLASSES = 20


def adaptive(table: DetectionTable, labels: Any, **settings: Any) -> DetectionTable:
    """The pseudo boxes with their relative scores, as the published function answers."""
    rows, relative = adaptive_rows(table, labels, **settings)
    return replace(table.take(rows), scores=relative)


def published_table(images: dict[str, list[dict[str, Any]]]) -> DetectionTable:
    """The published list of dictionaries, boxes xywh, as a table; images in the order of the dictionary."""
    rows = [(index, item) for index, items in enumerate(images.values()) for item in items]
    return DetectionTable(
        xywh_to_xyxy(as_boxes([item["bbox"] for _, item in rows])),
        np.asarray([index for index, _ in rows], np.int64),
        np.asarray([item["category_id"] for _, item in rows], np.int32),
        np.asarray([item["score"] for _, item in rows], np.float64),
    )


def as_published(table: DetectionTable, keys: list[str]) -> dict[str, list[dict[str, Any]]]:
    answer: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    boxes = xyxy_to_xywh(table.boxes).tolist()
    for image, category, box, score in zip(
        table.image_index, table.class_index.tolist(), boxes, table.scores.tolist(), strict=True
    ):
        answer[keys[image]].append({"category_id": category, "bbox": box, "score": pytest.approx(score)})
    return answer


def labels_of(images: dict[str, list[int]]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    labels = np.zeros((len(images), CLASSES), bool)
    for index, classes in enumerate(images.values()):
        labels[index, classes] = True
    return labels


def random_table(seed: int, n: int, n_images: int = 3, n_classes: int = 3) -> DetectionTable:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, size=(n, 4)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + 1 + corners[:, 2:]], axis=1)
    return DetectionTable(
        boxes,
        rng.integers(0, n_images, n),
        rng.integers(0, n_classes, n).astype(np.int32),
        rng.integers(1, 9, n) / 8,
    )


@pytest.mark.parametrize("index", range(8))
def test_containment_of_the_published_code(oracle: Any, index: int) -> None:
    case = oracle("pgt")["contain_cal"]["cases"][index]
    a, b = (xywh_to_xyxy(as_boxes([case[side]])) for side in "ab")
    assert containment(a, b)[0, 0] == pytest.approx(case["value"], rel=1e-9)


@pytest.mark.parametrize("sort_first", [False, True])
@pytest.mark.parametrize("index", range(14))
def test_adaptive_selection_of_the_published_code(oracle: Any, index: int, sort_first: bool) -> None:
    case = oracle("pgt")["pgt"]["cases"][index]
    sort_first = sort_first and case["name"] != "first_is_not_best"  # which has a test of its own
    got = adaptive(
        published_table(case["input"]),
        np.ones((len(case["input"]), CLASSES), bool),
        score_threshold=case["t_keep"],
        containment_threshold=case["t_con"],
        sort_first=sort_first,
        exempt_classes=() if case["use_diff"] else case["diff_classes"],
    )
    assert as_published(got, list(case["input"])) == case["output"]


def test_the_detectors_scores_stay_at_hand() -> None:
    table = random_table(3, 30)
    labels = np.asarray([[True, False, True], [False, True, False], [True, True, True]])
    rows, relative = adaptive_rows(table, labels)
    kept = adaptive(table, labels)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(kept.boxes, table.boxes[rows])
    np.testing.assert_array_equal(kept.scores, relative)


def test_the_best_is_kept_when_it_is_not_first(oracle: Any) -> None:
    case = next(case for case in oracle("pgt")["pgt"]["cases"] if case["name"] == "first_is_not_best")
    got = adaptive(published_table(case["input"]), np.ones((1, CLASSES), bool), sort_first=True)
    assert as_published(got, ["1"])["1"] == case["output"]["1"][1:]


@pytest.mark.parametrize("name", ["identical_boxes", "chain"])
def test_the_best_of_near_duplicates_can_be_kept(oracle: Any, name: str) -> None:
    case = next(case for case in oracle("pgt")["pgt"]["cases"] if case["name"] == name)
    got = adaptive(published_table(case["input"]), np.ones((1, CLASSES), bool), mutual="keep_best")
    assert xyxy_to_xywh(got.boxes).tolist() == [case["input"]["1"][0]["bbox"]]


def test_boxes_as_the_released_voc_branch_compares_them(oracle: Any) -> None:
    case = oracle("pgt")["voc_double_conversion"]
    inner_and_outer = as_boxes(case["true_xyxy"])
    outer, inner = inner_and_outer[:1], inner_and_outer[1:]
    assert containment(outer, inner)[0, 0] == pytest.approx(case["correct_outer_in_inner"])
    assert containment(inner, outer)[0, 0] == pytest.approx(case["correct_inner_in_outer"])
    released = xywh_to_xyxy(inner_and_outer)
    assert containment(released[:1], released[1:])[0, 0] == pytest.approx(
        case["contain_outer_in_inner_as_coded"]
    )
    assert containment(released[1:], released[:1])[0, 0] == pytest.approx(
        case["contain_inner_in_outer_as_coded"]
    )
    table = DetectionTable(inner_and_outer, np.zeros(2, np.int64), np.zeros(2, np.int32), np.ones(2))
    assert contained(table, threshold=0.6).tolist() == [False, True]
    assert contained(table, threshold=0.6, containment_input="as_released").tolist() == [True, True]


@pytest.mark.parametrize("index", range(5))
def test_top_k_of_the_published_code(oracle: Any, index: int) -> None:
    case = oracle("pgt")["pgt_topk"]["cases"][index]
    got = top_k(published_table(case["input"]), labels_of(case["class_labels"]), k=case["topk"])
    assert as_published(got, list(case["input"])) == case["output"]


def test_class_filter_of_the_published_code(oracle: Any) -> None:
    case = oracle("pgt")["class_filter"]
    got = filter_classes(published_table(case["input"]), labels_of(case["labels"]))
    assert as_published(got, list(case["input"])) == case["output"]


def test_annotations_of_the_published_code(oracle: Any) -> None:
    expected = oracle("pgt")["gen_annotations"]["output"]
    table = DetectionTable(
        xywh_to_xyxy(as_boxes([item["bbox"] for item in expected])),
        np.asarray([0, 1, 1]),
        np.asarray([1, 0, 0], np.int32),
        np.asarray([0.9, 0.8, 0.7]),
    )
    got = coco_annotations(table, image_ids=[5, 9], category_ids=[1, 18])
    assert [{key: item[key] for key in expected[0]} for item in got] == expected
    assert [(item["area"], item["iscrowd"], item["score"]) for item in got] == [
        (12.0, 0, 0.9),
        (25.0, 0, 0.8),
        (25.0, 0, 0.7),
    ]


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("mutual", ["drop_both", "keep_best"])
def test_any_number_of_detections(n: int, mutual: Any) -> None:
    table = random_table(n, n)
    labels = np.ones((3, 3), bool)
    assert len(adaptive(table, labels, mutual=mutual)) <= n
    assert len(top_k(table, labels)) <= n
    assert len(coco_annotations(table, image_ids=[1, 2, 3], category_ids=[1, 2, 3])) == n
    assert len(adaptive(table, np.zeros((3, 3), bool), mutual=mutual)) == 0


def test_an_image_without_a_label_is_refused() -> None:
    table = random_table(0, 6)
    with pytest.raises(ValueError, match="labels: expected every image"):
        adaptive(table, np.ones((1, 3), bool))
    with pytest.raises(ValueError, match="labels: expected every image"):
        top_k(table, np.ones((3, 1), bool))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        top_k(table, np.ones((3, 3), bool), k=0)


def test_a_table_checks_its_columns() -> None:
    with pytest.raises(ValueError, match=r"table\.scores: expected shape \(1,\), got \(2,\)"):
        DetectionTable(as_boxes([[0, 0, 1, 1]]), np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(2))
    with pytest.raises(ValueError, match="got NaN"):
        DetectionTable(
            as_boxes([[0, 0, 1, 1]]), np.zeros(1, np.int64), np.zeros(1, np.int32), np.full(1, np.nan)
        )


def test_images_become_a_table_and_come_back() -> None:
    images = [
        Detections(
            as_boxes(np.full((n, 4), n)), np.arange(n, dtype=np.int32), np.linspace(0, 1, n, dtype=np.float32)
        )
        for n in (0, 1, 2, 6, 0, 7)
    ]
    back = DetectionTable.from_images(images).to_images(len(images))
    for before, after in zip(images, back, strict=True):
        np.testing.assert_array_equal(before.boxes, after.boxes)
        np.testing.assert_array_equal(before.class_index, after.class_index)
        np.testing.assert_array_equal(before.scores, after.scores)
    assert len(DetectionTable.from_images([])) == 0
    assert len(DetectionTable.from_images([]).to_images(2)) == 2


def selected_one_by_one(
    table: DetectionTable, score_threshold: float, containment_threshold: float, exempt: set[int]
) -> list[int]:
    """The rules of the published code, written as loops."""
    scores = relative_scores(table)
    first: set[tuple[int, int]] = set()
    kept: list[int] = []
    for row in range(len(table)):
        key = (int(table.image_index[row]), int(table.class_index[row]))
        if key not in first or scores[row] >= score_threshold:
            kept.append(row)
        first.add(key)
    dropped = {
        i
        for i in kept
        for j in kept
        if i != j
        and table.image_index[i] == table.image_index[j]
        and table.class_index[i] == table.class_index[j]
        and table.class_index[i] not in exempt
        and containment(table.boxes[i : i + 1], table.boxes[j : j + 1])[0, 0] >= containment_threshold
    }
    return [row for row in kept if row not in dropped]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 40),
    score_threshold=st.sampled_from([0.3, 0.5, 1.0]),
    containment_threshold=st.sampled_from([0.5, 0.85]),
    exempt=st.sets(st.integers(0, 2)),
)
def test_all_at_once_equals_one_by_one(
    seed: int, n: int, score_threshold: float, containment_threshold: float, exempt: set[int]
) -> None:
    table = random_table(seed, n)
    got = adaptive(
        table,
        np.ones((3, 3), bool),
        score_threshold=score_threshold,
        containment_threshold=containment_threshold,
        sort_first=False,
        exempt_classes=exempt,
    )
    expected = selected_one_by_one(table, score_threshold, containment_threshold, exempt)
    np.testing.assert_array_equal(got.boxes, table.boxes[expected])
    np.testing.assert_array_equal(got.image_index, table.image_index[expected])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), threshold=st.sampled_from([0.5, 0.85]))
def test_keeping_the_best_leaves_a_box_in_every_image_and_class(seed: int, n: int, threshold: float) -> None:
    table = random_table(seed, n)
    got = adaptive(table, np.ones((3, 3), bool), containment_threshold=threshold, mutual="keep_best")
    before = set(zip(table.image_index.tolist(), table.class_index.tolist(), strict=True))
    assert set(zip(got.image_index.tolist(), got.class_index.tolist(), strict=True)) == before
    assert not contained(got, threshold=threshold).any()
