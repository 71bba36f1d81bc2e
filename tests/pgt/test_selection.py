"""The selection of pseudo ground truth against the published code, image by image."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exchange.helpers import labels
from weaksam_cli.core.boxes import as_boxes, xywh_to_xyxy, xyxy_to_xywh
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import read_detections, result_texts
from weaksam_cli.pgt import adaptive, top1
from weaksam_cli.pgt.adaptive import contained, containment, relative_scores

CLASSES = range(20)


def published(items: list[dict[str, Any]]) -> Detections:
    """The published dictionaries of one image, boxes xywh."""
    return Detections(
        xywh_to_xyxy(as_boxes([item["bbox"] for item in items])),
        np.asarray([item["category_id"] for item in items], np.int32),
        np.asarray([item["score"] for item in items], np.float32),
    )


def as_published(found: Detections) -> list[dict[str, Any]]:
    boxes = xyxy_to_xywh(found.boxes).tolist()
    return [
        {"category_id": category, "bbox": box, "score": pytest.approx(score, rel=1e-6)}
        for category, box, score in zip(found.class_index.tolist(), boxes, found.scores.tolist(), strict=True)
    ]


def select(
    found: Detections, classes: Collection[int] = CLASSES, exempt: Collection[int] = (), **changes: Any
) -> Detections:
    """The pseudo boxes with their relative scores, as the published function answers.

    The containment filter leaves the classes of `exempt` alone; WeakSAM has none, SoS-WSOD had.
    """
    recipe = adaptive.Recipe(**{"saved_score": "relative", **changes})
    plain = adaptive.select(found, [index for index in classes if index not in exempt], recipe)
    everything = recipe.model_copy(update={"containment_threshold": np.inf})
    spared = adaptive.select(found, [index for index in classes if index in exempt], everything)
    joined = Detections(
        np.concatenate([plain.boxes, spared.boxes]),
        np.concatenate([plain.class_index, spared.class_index]),
        np.concatenate([plain.scores, spared.scores]),
    )
    place = {
        (*box, index): row
        for row, (box, index) in enumerate(
            zip(map(tuple, found.boxes.tolist()), found.class_index.tolist(), strict=True)
        )
    }
    rows = [
        place[(*box, index)]
        for box, index in zip(joined.boxes.tolist(), joined.class_index.tolist(), strict=True)
    ]
    return joined.take(np.argsort(np.asarray(rows, np.int64), kind="stable"))


def random_image(seed: int, n: int, n_classes: int = 3) -> Detections:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, size=(n, 4)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + 1 + corners[:, 2:]], axis=1)
    scores = (rng.integers(1, 9, n) / 8).astype(np.float32)
    return Detections(boxes, rng.integers(0, n_classes, n).astype(np.int32), scores)


@pytest.mark.parametrize("index", range(8))
def test_containment_of_the_published_code(oracle: Any, index: int) -> None:
    case = oracle("pgt")["contain_cal"]["cases"][index]
    a, b = (xywh_to_xyxy(as_boxes([case[side]])).astype(np.float64) for side in "ab")
    assert containment(a, b)[0, 0] == pytest.approx(case["value"], rel=1e-9)


@pytest.mark.parametrize("sort_first", [False, True])
@pytest.mark.parametrize("index", range(14))
def test_adaptive_selection_of_the_published_code(oracle: Any, index: int, sort_first: bool) -> None:
    case = oracle("pgt")["pgt"]["cases"][index]
    sort_first = sort_first and case["name"] != "first_is_not_best"  # which has a test of its own
    for key, items in case["input"].items():
        got = select(
            published(items),
            score_threshold=case["t_keep"],
            containment_threshold=case["t_con"],
            sort_first=sort_first,
            exempt=() if case["use_diff"] else case["diff_classes"],
        )
        assert as_published(got) == case["output"].get(key, []), key


def test_the_detectors_scores_are_saved_by_default() -> None:
    found = random_image(3, 30)
    plain = adaptive.select(found, [0, 2], adaptive.Recipe())
    relative = adaptive.select(found, [0, 2], adaptive.Recipe(saved_score="relative"))
    np.testing.assert_array_equal(plain.boxes, relative.boxes)
    assert set(plain.class_index.tolist()) == {0, 2}
    assert set(plain.scores.tolist()) <= set(found.scores.tolist())
    assert relative.scores.max() > 1


def test_the_best_is_kept_when_it_is_not_first(oracle: Any) -> None:
    case = next(case for case in oracle("pgt")["pgt"]["cases"] if case["name"] == "first_is_not_best")
    got = select(published(case["input"]["1"]), sort_first=True)
    assert as_published(got) == case["output"]["1"][1:]


@pytest.mark.parametrize("name", ["identical_boxes", "chain"])
def test_the_best_of_near_duplicates_can_be_kept(oracle: Any, name: str) -> None:
    case = next(case for case in oracle("pgt")["pgt"]["cases"] if case["name"] == name)
    got = adaptive.select(published(case["input"]["1"]), CLASSES, adaptive.Recipe(mutual="keep_best"))
    assert xyxy_to_xywh(got.boxes).tolist() == [case["input"]["1"][0]["bbox"]]


def test_boxes_as_the_released_voc_branch_compares_them(oracle: Any) -> None:
    case = oracle("pgt")["voc_double_conversion"]
    both = as_boxes(case["true_xyxy"])
    shares = containment(both.astype(np.float64), both.astype(np.float64))
    assert shares[0, 1] == pytest.approx(case["correct_outer_in_inner"])
    assert shares[1, 0] == pytest.approx(case["correct_inner_in_outer"])
    shares = containment(*[xywh_to_xyxy(both).astype(np.float64)] * 2)
    assert shares[0, 1] == pytest.approx(case["contain_outer_in_inner_as_coded"])
    assert shares[1, 0] == pytest.approx(case["contain_inner_in_outer_as_coded"])
    found = Detections(both, np.zeros(2, np.int32), np.ones(2, np.float32))
    assert len(select(found, containment_threshold=0.6)) == 1
    assert len(select(found, containment_threshold=0.6, containment_input="as_released")) == 0


@pytest.mark.parametrize("index", range(5))
def test_top_k_of_the_published_code(oracle: Any, index: int) -> None:
    case = oracle("pgt")["pgt_topk"]["cases"][index]
    for key, items in case["input"].items():
        got = top1.select(published(items), case["class_labels"][key], top1.Recipe(k=case["topk"]))
        assert as_published(got) == case["output"].get(key, []), key


@pytest.mark.parametrize("score", [4e-7, 3e-7])
def test_a_small_score_keeps_its_box_through_the_file(tmp_path: Path, score: float) -> None:
    """Scores were written with six decimals: these became 0, and a box of score 0 is none."""
    split = labels({"000005": 5})
    path = tmp_path / "detections.json"
    found = Detections(as_boxes([[0, 0, 9, 9]]), np.zeros(1, np.int32), np.asarray([score], np.float32))
    path.write_text("[" + ",".join(result_texts(split)("000005", found)) + "]")
    read = read_detections(path, split)["000005"]
    assert top1.select(read, [0], top1.Recipe()).scores.tolist() == found.scores.tolist()


def test_class_filter_of_the_published_code(oracle: Any) -> None:
    case = oracle("pgt")["class_filter"]
    for key, items in case["input"].items():
        got = adaptive.select(
            published(items), case["labels"][key], adaptive.Recipe(score_threshold=0, mutual="keep_best")
        )
        assert as_published(got) == case["output"].get(key, []), key


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("mutual", ["drop_both", "keep_best"])
def test_any_number_of_detections(n: int, mutual: Any) -> None:
    found = random_image(n, n)
    for module, recipe in ((adaptive, adaptive.Recipe(mutual=mutual)), (top1, top1.Recipe())):
        assert len(module.select(found, CLASSES, recipe)) <= n
        assert len(module.select(found, [], recipe)) == 0


def selected_one_by_one(found: Detections, score_threshold: float, containment_threshold: float) -> list[int]:
    """The rules of the published code, written as loops."""
    classes = found.class_index.tolist()
    scores = np.zeros(len(found))
    for index in set(classes):
        scores[found.class_index == index] = relative_scores(found.scores[found.class_index == index])
    first: set[int] = set()
    kept: list[int] = []
    for row in range(len(found)):
        if classes[row] not in first or scores[row] >= score_threshold:
            kept.append(row)
        first.add(classes[row])
    boxes = found.boxes.astype(np.float64)
    dropped = {
        i
        for i in kept
        for j in kept
        if i != j
        and classes[i] == classes[j]
        and containment(boxes[i : i + 1], boxes[j : j + 1])[0, 0] >= containment_threshold
    }
    return [row for row in kept if row not in dropped]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 40),
    score_threshold=st.sampled_from([0.3, 0.5, 1.0]),
    containment_threshold=st.sampled_from([0.5, 0.85]),
)
def test_all_at_once_equals_one_by_one(
    seed: int, n: int, score_threshold: float, containment_threshold: float
) -> None:
    found = random_image(seed, n)
    got = adaptive.select(
        found,
        range(3),
        adaptive.Recipe(
            score_threshold=score_threshold, containment_threshold=containment_threshold, sort_first=False
        ),
    )
    expected = found.take(
        np.asarray(selected_one_by_one(found, score_threshold, containment_threshold), np.int64)
    )
    np.testing.assert_array_equal(got.boxes, expected.boxes)
    np.testing.assert_array_equal(got.class_index, expected.class_index)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), threshold=st.sampled_from([0.5, 0.85]))
def test_keeping_the_best_leaves_a_box_of_every_class(seed: int, n: int, threshold: float) -> None:
    found = random_image(seed, n)
    recipe = adaptive.Recipe(containment_threshold=threshold, mutual="keep_best")
    got = adaptive.select(found, CLASSES, recipe)
    assert set(got.class_index.tolist()) == set(found.class_index.tolist())
    for index in set(got.class_index.tolist()):
        mine = got.take(got.class_index == index)
        boxes = mine.boxes.astype(np.float64)
        assert not contained(boxes, mine.scores.astype(np.float64), threshold, "drop_both").any()
