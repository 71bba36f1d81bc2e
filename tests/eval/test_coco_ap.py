from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval.coco_ap import CocoAp, coco_ap, coco_dataset, coco_results

CLASSES = ["cat", "dog"]


def figures(found: CocoAp) -> tuple[float, float, float]:
    return found.ap.mean, found.at[0.5].mean, found.at[0.75].mean


def summarized(dataset: Any, results: Any, kind: str) -> list[float]:
    """AP, AP50, AP75 and AP of small, medium and large objects, as `COCOeval.summarize` has them."""
    truth = COCO()
    truth.dataset = copy.deepcopy({"info": {}, **dataset})
    for number, item in enumerate(truth.dataset["annotations"], start=1):
        item["id"] = number
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float("nan") if value == -1 else float(value) for value in evaluation.stats[:6]]


def objects(boxes: Any, classes: Any, difficult: Any = None) -> GroundTruth:
    flags = np.zeros(len(classes), bool) if difficult is None else np.asarray(difficult, bool)
    return GroundTruth(as_boxes(boxes), np.asarray(classes, np.int32), flags)


def found(boxes: Any, classes: Any, scores: Any) -> Detections:
    return Detections(as_boxes(boxes), np.asarray(classes, np.int32), np.asarray(scores, np.float32))


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_perfect_boxes(n: int) -> None:
    boxes = [[40 * i, 0, 40 * i + 10 * (i + 1), 10 * (i + 1)] for i in range(n)]
    truth = {"a": objects(boxes, [0] * n), "b": objects([], [])}
    dataset, numbers = coco_dataset(truth, CLASSES)
    got = coco_ap(dataset, coco_results({"a": found(boxes, [0] * n, [0.9] * n)}, numbers))
    assert figures(got) == pytest.approx((1, 1, 1))
    assert got.ap.values == pytest.approx({"cat": 1, "dog": np.nan}, nan_ok=True)
    assert got.ap.support == {"cat": n, "dog": 0}


def test_the_thresholds_of_a_shifted_box(capsys: pytest.CaptureFixture[str]) -> None:
    """IoU .75 exactly counts at .50 to .75, six of ten thresholds."""
    truth = {"a": objects([[0, 0, 100, 100]], [0])}
    dataset, numbers = coco_dataset(truth, CLASSES)
    got = coco_ap(dataset, coco_results({"a": found([[0, 0, 100, 75]], [0], [0.9])}, numbers))
    assert figures(got) == pytest.approx((0.6, 1, 1))
    assert capsys.readouterr().out == ""


def test_no_detections_give_zeros() -> None:
    dataset, _ = coco_dataset({"a": objects([[0, 0, 50, 50]], [1])}, CLASSES)
    got = coco_ap(dataset, [])
    assert figures(got) == (0, 0, 0)


def test_no_objects_give_nan() -> None:
    dataset, numbers = coco_dataset({"a": objects([], [])}, CLASSES)
    assert np.isnan(coco_ap(dataset, []).ap.mean)
    assert np.isnan(coco_ap(dataset, coco_results({"a": found([[0, 0, 5, 5]], [0], [1])}, numbers)).ap.mean)


def test_difficult_objects_count_neither_way() -> None:
    truth = {"a": objects([[0, 0, 50, 50], [60, 0, 110, 50]], [0, 0], [False, True])}
    dataset, numbers = coco_dataset(truth, CLASSES)
    detections = {"a": found([[60, 0, 110, 50], [0, 0, 50, 50]], [0, 0], [0.9, 0.8])}
    assert coco_ap(dataset, coco_results(detections, numbers)).ap.mean == pytest.approx(1)


def test_what_the_caller_gave_stays_unchanged() -> None:
    dataset, numbers = coco_dataset({"a": objects([[0, 0, 40, 40]], [0])}, CLASSES)
    results = coco_results({"a": found([[0, 0, 40, 30]], [0], [0.9])}, numbers)
    before = copy.deepcopy((dataset, results))
    coco_ap(dataset, results)
    assert (dataset, results) == before


def test_an_annotation_numbered_zero_can_be_matched() -> None:
    """The published code numbers annotations from 0, which pycocotools takes for no match."""
    dataset, numbers = coco_dataset({"a": objects([[0, 0, 40, 40]], [0])}, CLASSES)
    dataset["annotations"][0]["id"] = 0
    results = coco_results({"a": found([[0, 0, 40, 40]], [0], [0.9])}, numbers)
    assert coco_ap(dataset, results).ap.mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("area", "size"),
    [(None, "large"), (np.nan, "large"), (1023, "small"), (1025, "medium"), (9217, "large")],
)
def test_sizes_are_those_of_the_annotation(area: float | None, size: str) -> None:
    """A box of 100 x 100 pixels around something thin; where nobody says, the box is it."""
    truth = replace(
        objects([[0, 0, 100, 100]], [0]), areas=None if area is None else np.asarray([area], np.float32)
    )
    dataset, numbers = coco_dataset({"a": truth}, CLASSES)
    got = coco_ap(dataset, coco_results({"a": found([[0, 0, 100, 100]], [0], [0.9])}, numbers))
    known = {name: figure.mean for name, figure in got.of_size.items() if not np.isnan(figure.mean)}
    assert known == pytest.approx({size: 1})


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pycocotools_sums_up_to_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, detections = {}, {}
    for key, n, more in zip("abcde", (0, 1, 2, 6, 7), (2, 0, 7, 1, 6), strict=True):
        sides = rng.uniform(3, 130, (n, 2))
        corner = rng.uniform(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1)
        flags = rng.random(n) < 0.2
        truth[key] = replace(
            objects(boxes, rng.integers(0, 2, n), flags), areas=rng.uniform(5, 12000, n).astype(np.float32)
        )
        near = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), rng.uniform(0, 30, (more, 4))])
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        detections[key] = found(near, rng.integers(0, 2, len(near)), rng.random(len(near)).round(1))
    dataset, numbers = coco_dataset(truth, CLASSES)
    results = coco_results(detections, numbers)
    got = coco_ap(dataset, results)
    sizes = [figure.mean for figure in got.of_size.values()]
    assert [*figures(got), *sizes] == pytest.approx(summarized(dataset, results, "bbox"), nan_ok=True)


def test_detections_of_unknown_images_are_refused() -> None:
    with pytest.raises(UserError, match="detections: 1 images"):
        coco_results({"b": Detections.empty()}, {"a": 1})
