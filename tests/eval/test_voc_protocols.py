"""VOC average precision and CorLoc against the published evaluators."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.core.boxes import as_boxes, inclusive_to_edges, iou, voc_to_edges
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval.corloc import CORLOC_PROTOCOLS, CorlocName, corloc
from weaksam_cli.eval.matching import DETECTRON2_TEXT, PIXEL_EDGES, Convention, match_detections
from weaksam_cli.eval.voc_ap import (
    VOC_PROTOCOLS,
    VocName,
    VocProtocol,
    area,
    eleven_point,
    precision_recall,
    voc_ap,
)

OURS, OUR_CORLOC = VOC_PROTOCOLS["weaksam"], CORLOC_PROTOCOLS["weaksam"]

CLASSES = ["cat", "dog"]


def objects(boxes: Any, classes: Any, difficult: Any = None) -> GroundTruth:
    flags = np.zeros(len(classes), bool) if difficult is None else np.asarray(difficult, bool)
    return GroundTruth(as_boxes(boxes), np.asarray(classes, np.int32), flags)


def found(boxes: Any, classes: Any, scores: Any) -> Detections:
    return Detections(as_boxes(boxes), np.asarray(classes, np.int32), np.asarray(scores, np.float32))


def mist_case(case: dict[str, Any]) -> tuple[dict[str, GroundTruth], dict[str, Detections]]:
    """Boxes are inclusive and count from 0 (XML minus 1); class 0 is the background."""
    truth = {
        str(index): objects(
            inclusive_to_edges(as_boxes(item["boxes"])), np.asarray(item["labels"]) - 1, item["difficult"]
        )
        for index, item in enumerate(case["gts"])
    }
    detections = {
        str(index): found(
            inclusive_to_edges(as_boxes(item["boxes"])), np.asarray(item["labels"]) - 1, item["scores"]
        )
        for index, item in enumerate(case["preds"])
    }
    return truth, detections


@pytest.mark.parametrize("curve", ["11point", "area"])
def test_average_precision_of_wetectron(oracle: Any, curve: Any) -> None:
    case = oracle("mist_wetectron")["voc_ap_wetectron"]
    protocol = VocProtocol(VOC_PROTOCOLS["mist"].convention, curve)
    assert curve == "area" or protocol == VOC_PROTOCOLS["mist"]
    got = voc_ap(*mist_case(case), CLASSES, protocol)
    assert list(got.values.values()) == pytest.approx(case[f"ap_{curve}"][1:])
    assert got.mean == pytest.approx(case[f"map_{curve}"])
    assert got.support == {"cat": 3, "dog": 1}


@pytest.mark.parametrize("metric", ["11point", "area"])
def test_average_precision_of_mmdetection(oracle: Any, metric: Any) -> None:
    case = oracle("oicr_wsod2")["mmdet_ap"]
    truth, detections = {}, {}
    for index, (item, per_class) in enumerate(zip(case["annotations"], case["detections"], strict=True)):
        boxes, ignored = as_boxes(item["bboxes"]), as_boxes(item["bboxes_ignore"])
        truth[str(index)] = objects(
            inclusive_to_edges(np.concatenate([boxes, ignored])),
            item["labels"] + item["labels_ignore"],
            [False] * len(boxes) + [True] * len(ignored),
        )
        rows = np.asarray([row for rows in per_class for row in rows], np.float32).reshape(-1, 5)
        classes = [category for category, rows in enumerate(per_class) for _ in rows]
        detections[str(index)] = found(inclusive_to_edges(rows[:, :4]), classes, rows[:, 4])
    convention = VOC_PROTOCOLS["wsod2"].convention
    got = voc_ap(truth, detections, CLASSES, VocProtocol(convention, metric))
    name = "11point" if metric == "11point" else "area"
    assert list(got.values.values()) == pytest.approx(case[f"ap_{name}"], abs=1e-6)
    assert got.mean == pytest.approx(case[f"map_{name}"], abs=1e-6)


def xml_objects(case: dict[str, Any]) -> dict[str, GroundTruth]:
    return {
        key: objects(
            voc_to_edges(as_boxes([item[2:] for item in items])),
            [CLASSES.index(item[0]) for item in items],
            [item[1] for item in items],
        )
        for key, items in case["annotations"].items()
    }


def fork_detections(case: dict[str, Any]) -> dict[str, Detections]:
    rows = defaultdict(list)
    for key, score, box in case["detections_of_cat_0based"]:
        rows[key].append((score, box))
    return {
        key: found([box for _, box in items], [0] * len(items), [score for score, _ in items])
        for key, items in rows.items()
    }


@pytest.mark.parametrize("protocol", ["detectron2-2007", "detectron2-2012"])
def test_average_precision_of_the_detectron2_fork(oracle: Any, protocol: VocName) -> None:
    case = oracle("mist_wetectron")["corloc_and_ap_detectron2_fork"]
    got = voc_ap(xml_objects(case), fork_detections(case), CLASSES, VOC_PROTOCOLS[protocol])
    assert got.values["cat"] == pytest.approx(case["ap_11point" if protocol.endswith("07") else "ap_area"])
    matches = match_detections(xml_objects(case), fork_detections(case), len(CLASSES), DETECTRON2_TEXT)
    precision, recall = precision_recall(matches.status, int(matches.n_objects[0]))
    np.testing.assert_allclose(precision, case["precision"])
    np.testing.assert_allclose(recall, case["recall"])


def test_the_fork_writes_text_lines(oracle: Any) -> None:
    case = oracle("mist_wetectron")["corloc_and_ap_detectron2_fork"]
    for (key, score, box), line in zip(case["detections_of_cat_0based"], case["written_lines"], strict=True):
        read = DETECTRON2_TEXT.detection_boxes(as_boxes([box]))[0]
        written = DETECTRON2_TEXT.detection_scores(np.asarray([score], np.float32))[0]
        assert f"{key} {written:.3f} " + " ".join(f"{value:.1f}" for value in read) == line


def test_corloc_of_the_detectron2_fork(oracle: Any) -> None:
    case = oracle("mist_wetectron")["corloc_and_ap_detectron2_fork"]
    got = corloc(xml_objects(case), fork_detections(case), CLASSES, CORLOC_PROTOCOLS["detectron2"])
    assert got.values["cat"] == pytest.approx(case["corloc_cat"])
    assert got.support == {"cat": 2, "dog": 2}


def test_corloc_of_mist(oracle: Any) -> None:
    case = oracle("mist_wetectron")["corloc"]
    detections = {
        key: found(inclusive_to_edges(as_boxes([box])), [0], [score])
        for key, (score, box) in case["top1_detections_of_cat"].items()
    }
    got = corloc(xml_objects(case), detections, CLASSES, CORLOC_PROTOCOLS["mist"])
    assert got.values["cat"] == pytest.approx(case["corloc_cat"])
    assert got.support == {"cat": 3, "dog": 2}
    assert got.values["dog"] == 0


def test_corloc_of_mist_chooses_by_the_full_score() -> None:
    """Scores are written with three decimals, after the choice: rounded before, the first of equals was taken."""
    truth = {"a": objects([[0, 0, 20, 20]], [0])}
    detections = {"a": found([[50, 50, 60, 60], [0, 0, 20, 20]], [0, 0], [0.5001, 0.5004])}
    for name, expected in (("mist", 1), ("weaksam", 1), ("detectron2", 0)):
        protocol = CORLOC_PROTOCOLS[name]  # type: ignore[index]
        assert corloc(truth, detections, CLASSES, protocol).values["cat"] == expected, name


@pytest.mark.parametrize(("names", "protocols"), [(CorlocName, CORLOC_PROTOCOLS), (VocName, VOC_PROTOCOLS)])
def test_a_recipe_can_name_every_protocol(names: Any, protocols: Any) -> None:
    assert get_args(names) == tuple(protocols)


def average_precision_one_by_one(
    truth: dict[str, GroundTruth],
    detections: dict[str, Detections],
    category: int,
    convention: Convention,
    metric: str,
) -> float:
    """The VOC development kit's rules, written as loops."""
    n_objects = sum(int(((item.class_index == category) & ~item.difficult).sum()) for item in truth.values())
    ranked = [
        (float(score), key, box)
        for key in truth
        for box, kind, score in zip(
            detections[key].boxes, detections[key].class_index, detections[key].scores, strict=True
        )
        if kind == category
    ]
    ranked.sort(key=lambda item: -item[0])
    used: set[tuple[str, int]] = set()
    true = false = 0
    curve: list[tuple[float, float]] = []
    for _, key, box in ranked:
        candidates = [
            (float(iou(as_boxes([box]), as_boxes([other]), plus_one=convention.plus_one)[0, 0]), -index)
            for index, other in enumerate(truth[key].boxes)
            if truth[key].class_index[index] == category
        ]
        overlap, index = max(candidates, default=(-1.0, 0))
        hit = overlap > 0.5 if convention.strict else overlap >= 0.5
        if hit and truth[key].difficult[-index]:
            pass
        elif hit and (key, -index) not in used:
            used.add((key, -index))
            true += 1
        else:
            false += 1
        curve.append((true / max(true + false, 1), true / n_objects if n_objects else 0.0))
    if n_objects == 0:
        return float("nan")
    if metric == "11point":
        return (
            sum(
                max((p for p, r in curve if r >= point), default=0.0)
                for point in np.arange(0, 1.1, 0.1).tolist()
            )
            / 11
        )
    total, before = 0.0, 0.0
    for position, (_, recall) in enumerate(curve):
        total += (recall - before) * max(p for p, _ in curve[position:])
        before = recall
    return total


def random_set(
    seed: int, n_objects: int, n_detections: int
) -> tuple[dict[str, GroundTruth], dict[str, Detections]]:
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> Any:
        corner = rng.integers(0, 4, (n, 2))
        return np.concatenate([corner, corner + rng.integers(1, 5, (n, 2))], axis=1)

    truth, detections = {}, {}
    for key in ("a", "b", "c"):
        n, m = int(rng.integers(0, n_objects + 1)), int(rng.integers(0, n_detections + 1))
        truth[key] = objects(boxes(n), rng.integers(0, 2, n), rng.random(n) < 0.3)
        detections[key] = found(boxes(m), rng.integers(0, 2, m), rng.integers(0, 6, m) / 8)
    return truth, detections


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    n_objects=st.sampled_from([0, 1, 2, 6]),
    n_detections=st.sampled_from([0, 1, 2, 6, 7]),
    convention=st.sampled_from([PIXEL_EDGES, Convention(strict=True), Convention(plus_one=True)]),
    metric=st.sampled_from(["11point", "area"]),
)
def test_average_precision_equals_loops(
    seed: int, n_objects: int, n_detections: int, convention: Convention, metric: Any
) -> None:
    truth, detections = random_set(seed, n_objects, n_detections)
    got = voc_ap(truth, detections, CLASSES, VocProtocol(convention, metric))
    for category, name in enumerate(CLASSES):
        expected = average_precision_one_by_one(truth, detections, category, convention, metric)
        assert got.values[name] == pytest.approx(expected, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 100_000), n=st.sampled_from([0, 1, 2, 6, 7]))
def test_corloc_equals_loops(seed: int, n: int) -> None:
    truth, detections = random_set(seed, n, n)
    got = corloc(truth, detections, CLASSES, OUR_CORLOC)
    for category, name in enumerate(CLASSES):
        hits = []
        for key, item in truth.items():
            wanted = item.boxes[item.class_index == category]
            if len(wanted) == 0:
                continue
            mine = detections[key].take(detections[key].class_index == category)
            hits.append(len(mine) > 0 and iou(mine.boxes[[mine.scores.argmax()]], wanted).max() > 0.5)
        assert got.support[name] == len(hits)
        assert got.values[name] == pytest.approx(np.mean(hits) if hits else float("nan"), nan_ok=True)


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_perfect_detections(n: int) -> None:
    boxes = [[20 * index, 0, 20 * index + 10, 10] for index in range(n)]
    truth = {"a": objects(boxes, [0] * n)}
    detections = {"a": found(boxes, [0] * n, np.linspace(1, 0.5, n))}
    for name in ("weaksam", "weaksam-area"):
        got = voc_ap(truth, detections, CLASSES, VOC_PROTOCOLS[name])
        assert got.values["cat"] == pytest.approx(1)
        assert np.isnan(got.values["dog"])
        assert got.mean == pytest.approx(1)
    assert corloc(truth, detections, CLASSES, OUR_CORLOC).values["cat"] == 1


def test_no_detections_and_no_images() -> None:
    truth = {"a": objects([[0, 0, 5, 5]], [0])}
    assert voc_ap(truth, {}, CLASSES, OURS).values["cat"] == 0
    assert corloc(truth, {}, CLASSES, OUR_CORLOC).values["cat"] == 0
    assert np.isnan(voc_ap({}, {}, CLASSES, OURS).mean)
    assert np.isnan(corloc({}, {}, CLASSES, OUR_CORLOC).mean)


def test_a_second_hit_is_false_and_a_difficult_one_is_neither() -> None:
    truth = {"a": objects([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [False, True])}
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [50, 50, 60, 59]]
    matches = match_detections(
        truth,
        {"a": found(boxes, [0] * 4, [0.5, 0.9, 0.8, 0.7])},
        len(CLASSES),
        PIXEL_EDGES,
    )
    assert matches.status.tolist() == [1, -1, -1, 0]
    assert matches.n_objects.tolist() == [1, 0]


def test_the_threshold_may_be_equal_or_not() -> None:
    truth = {"a": objects([[0, 0, 10, 10]], [0])}
    detections = {"a": found([[0, 0, 10, 5]], [0], [1])}
    assert voc_ap(truth, detections, CLASSES, OURS).values["cat"] == pytest.approx(1)
    strict = VocProtocol(Convention(strict=True), "11point")
    assert voc_ap(truth, detections, CLASSES, strict).values["cat"] == 0
    assert corloc(truth, detections, CLASSES, OUR_CORLOC).values["cat"] == 0


def test_the_protocols_differ_where_they_should() -> None:
    """A box of half the area: the +1 of older code lifts the IoU to .5 and above."""
    truth = {"a": objects([[0, 0, 10, 10]], [0])}
    detections = {"a": found([[0, 0, 10, 4.6]], [0], [1])}
    hits = {name: voc_ap(truth, detections, CLASSES, it).values["cat"] for name, it in VOC_PROTOCOLS.items()}
    assert [name for name, value in hits.items() if value > 0.5] == ["mist"]


def test_predictions_of_unknown_images_are_the_users_matter() -> None:
    with pytest.raises(UserError, match="detections: 1 images are not in the ground truth, the first is 'b'"):
        voc_ap({"a": objects([], [])}, {"b": Detections.empty()}, CLASSES, OURS)
    with pytest.raises(UserError, match="detections"):
        corloc({"a": objects([], [])}, {"b": Detections.empty()}, CLASSES, OUR_CORLOC)


def test_the_two_sums_of_a_curve() -> None:
    precision, recall = np.asarray([1, 0.5, 2 / 3]), np.asarray([0.5, 0.5, 1.0])
    assert eleven_point(precision, recall) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert area(precision, recall) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert area(np.zeros(0), np.zeros(0)) == 0
