from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.masks import encode
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.errors import UserError
from weaksam_cli.eval.coco_ap import coco_ap, coco_ap_at, coco_dataset, coco_results
from weaksam_cli.eval.mask_ap import mask_ap_voc

CLASSES = ["cat", "dog"]


def objects(boxes: Any, classes: Any, difficult: Any = None) -> GroundTruth:
    flags = np.zeros(len(classes), bool) if difficult is None else np.asarray(difficult, bool)
    return GroundTruth(as_boxes(boxes), np.asarray(classes, np.int32), flags)


def found(boxes: Any, classes: Any, scores: Any) -> Detections:
    return Detections(as_boxes(boxes), np.asarray(classes, np.int32), np.asarray(scores, np.float32))


def rle(box: list[int]) -> dict[str, Any]:
    mask = np.zeros((1, 120, 160), bool)
    mask[0, box[1] : box[3], box[0] : box[2]] = True
    return {"size": [120, 160], "counts": encode(mask)[0].decode("ascii")}


def mask_dataset(boxes: list[list[int]], classes: list[int]) -> dict[str, Any]:
    """Rectangular masks of one image, numbered from 0 as the published code does."""
    return {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": category,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "iscrowd": 0,
                "segmentation": rle(box),
            }
            for number, (box, category) in enumerate(zip(boxes, classes, strict=True))
        ],
    }


def mask_results(boxes: list[list[int]], classes: list[int], scores: list[float]) -> list[dict[str, Any]]:
    return [
        {"image_id": 1, "category_id": category, "score": score, "segmentation": rle(box)}
        for box, category, score in zip(boxes, classes, scores, strict=True)
    ]


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_perfect_boxes(n: int) -> None:
    boxes = [[40 * i, 0, 40 * i + 10 * (i + 1), 10 * (i + 1)] for i in range(n)]
    truth = {"a": objects(boxes, [0] * n), "b": objects([], [])}
    dataset, numbers = coco_dataset(truth, CLASSES)
    got = coco_ap(dataset, coco_results({"a": found(boxes, [0] * n, [0.9] * n)}, numbers))
    assert (got.ap, got.ap50, got.ap75) == pytest.approx((1, 1, 1))
    assert got.per_class == pytest.approx({"cat": 1, "dog": np.nan}, nan_ok=True)


def test_the_thresholds_of_a_shifted_box(capsys: pytest.CaptureFixture[str]) -> None:
    """IoU .75 exactly counts at .50 to .75, six of ten thresholds."""
    truth = {"a": objects([[0, 0, 100, 100]], [0])}
    dataset, numbers = coco_dataset(truth, CLASSES)
    got = coco_ap(dataset, coco_results({"a": found([[0, 0, 100, 75]], [0], [0.9])}, numbers))
    assert (got.ap, got.ap50, got.ap75) == pytest.approx((0.6, 1, 1))
    assert capsys.readouterr().out == ""


def test_no_detections_give_zeros() -> None:
    dataset, _ = coco_dataset({"a": objects([[0, 0, 50, 50]], [1])}, CLASSES)
    got = coco_ap(dataset, [])
    assert (got.ap, got.ap50, got.ap75) == (0, 0, 0)
    assert coco_ap_at(mask_dataset([[0, 0, 40, 40]], [1]), []) == {0.25: 0, 0.5: 0, 0.7: 0, 0.75: 0}


def test_no_objects_give_nan() -> None:
    dataset, numbers = coco_dataset({"a": objects([], [])}, CLASSES)
    assert np.isnan(coco_ap(dataset, []).ap)
    assert np.isnan(coco_ap(dataset, coco_results({"a": found([[0, 0, 5, 5]], [0], [1])}, numbers)).ap)


def test_difficult_objects_count_neither_way() -> None:
    truth = {"a": objects([[0, 0, 50, 50], [60, 0, 110, 50]], [0, 0], [False, True])}
    dataset, numbers = coco_dataset(truth, CLASSES)
    detections = {"a": found([[60, 0, 110, 50], [0, 0, 50, 50]], [0, 0], [0.9, 0.8])}
    assert coco_ap(dataset, coco_results(detections, numbers)).ap == pytest.approx(1)


def test_what_the_caller_gave_stays_unchanged() -> None:
    dataset = mask_dataset([[0, 0, 40, 40]], [1])
    results = mask_results([[0, 0, 40, 30]], [1], [0.9])
    before = copy.deepcopy((dataset, results))
    coco_ap(dataset, results, kind="segm")
    mask_ap_voc(dataset, results)
    assert (dataset, results) == before


def test_an_annotation_numbered_zero_can_be_matched() -> None:
    dataset = mask_dataset([[0, 0, 40, 40]], [1])
    assert coco_ap(dataset, mask_results([[0, 0, 40, 40]], [1], [0.9]), kind="segm").ap == pytest.approx(1)


def test_masks_at_the_papers_thresholds() -> None:
    """Masks of IoU .6 and .3 with the object, in this order of score."""
    dataset = mask_dataset([[0, 0, 100, 100], [110, 0, 150, 100]], [1, 2])
    results = mask_results([[0, 0, 100, 60], [110, 0, 150, 30]], [1, 2], [0.9, 0.8])
    assert coco_ap_at(dataset, results) == pytest.approx({0.25: 1, 0.5: 0.5, 0.7: 0, 0.75: 0})
    got = mask_ap_voc(dataset, results)
    assert {value: item.mean for value, item in got.items()} == pytest.approx(
        {0.25: 1, 0.5: 0.5, 0.7: 0, 0.75: 0}
    )
    assert got[0.5].support == {"cat": 1, "dog": 1}


def test_the_two_mask_protocols_differ_in_the_sum() -> None:
    """Two objects, the second found by the third mask: 101 points against the area under the curve."""
    dataset = mask_dataset([[0, 0, 40, 40], [60, 0, 100, 40]], [1, 1])
    results = mask_results([[0, 0, 40, 40], [0, 60, 40, 100], [60, 0, 100, 40]], [1, 1, 1], [0.9, 0.8, 0.7])
    assert mask_ap_voc(dataset, results)[0.5].values["cat"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert coco_ap_at(dataset, results)[0.5] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_crowds_count_neither_way_the_voc_way() -> None:
    dataset = mask_dataset([[0, 0, 40, 40], [60, 0, 100, 40]], [1, 1])
    dataset["annotations"][1]["iscrowd"] = 1
    results = mask_results([[60, 0, 100, 40], [0, 0, 40, 40]], [1, 1], [0.9, 0.8])
    assert mask_ap_voc(dataset, results)[0.75].values["cat"] == pytest.approx(1)


def test_no_masks_give_zeros_the_voc_way() -> None:
    got = mask_ap_voc(mask_dataset([[0, 0, 40, 40]], [1]), [])
    assert {value: item.mean for value, item in got.items()} == {0.25: 0, 0.5: 0, 0.7: 0, 0.75: 0}


def test_detections_of_unknown_images_are_refused() -> None:
    with pytest.raises(UserError, match="detections: 1 images"):
        coco_results({"b": Detections.empty()}, {"a": 1})
