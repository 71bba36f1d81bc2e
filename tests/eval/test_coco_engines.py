"""hotcoco and pycocotools, which is the oracle and the fallback, agree to the last bit."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from tests.fuzz.process import run_forked
from weaksam_cli.eval.coco_ap import COCO_THRESHOLDS
from weaksam_cli.eval.coco_engines import Kind, by_hotcoco, by_pycocotools, coco_precision

HEIGHT, WIDTH = 120, 150
THRESHOLDS = sorted({*COCO_THRESHOLDS, 0.25, 0.7})


def rectangle(rng: np.random.Generator, kind: Kind) -> dict[str, Any]:
    left, top = rng.integers(0, 40, 2).tolist()
    width, height = rng.integers(1, 110, 2).tolist()
    if kind == "bbox":
        return {"bbox": [left + 0.25, top, width, height]}
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    drawn[top : top + height, left : left + width] = 1
    return {"segmentation": coco_mask.encode(drawn)}


def example(seed: int, kind: Kind, images: int, most: int, classes: int) -> tuple[Any, Any]:
    """Crowds, ties of scores, areas of the annotation's own, classes without objects or without detections."""
    rng = np.random.default_rng(seed)
    places = [
        (image, int(category)) for image in range(images) for category in rng.integers(1, classes + 1, most)
    ]
    objects = [
        {
            "id": number, "image_id": image, "category_id": category, "iscrowd": int(rng.random() < 0.2),
            "area": float(rng.choice([0.0, 500.0, 1024.0, 5000.0, 9216.0, 20000.0])), "bbox": [0, 0, 1, 1],
            **rectangle(rng, kind),
        }
        for number, (image, category) in enumerate(places, start=1)
        if rng.random() < 0.7
    ]  # fmt: skip
    found = [
        {
            "image_id": image,
            "category_id": int(rng.integers(1, classes + 1)),
            "score": float(rng.integers(1, 5)) / 4,
        }
        | rectangle(rng, kind)
        for image, _ in 3 * places
        if rng.random() < 0.7
    ]
    dataset = {
        "images": [{"id": image, "height": HEIGHT, "width": WIDTH} for image in range(images)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, classes + 1)],
        "annotations": objects,
    }
    return dataset, found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["bbox", "segm"]),
    st.sampled_from([1, 2, 6, 7]),
    st.integers(1, 4),
)
def test_the_same_to_the_last_bit(seed: int, kind: Kind, most: int, classes: int) -> None:
    dataset, found = example(seed, kind, images=1 + seed % 3, most=most, classes=classes)
    if dataset["annotations"]:
        before = copy.deepcopy((dataset, found))
        fast = coco_precision(dataset, found, kind, THRESHOLDS)
        assert (dataset, found) == before
        np.testing.assert_array_equal(fast, by_pycocotools(dataset, found, kind, THRESHOLDS))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_more_detections_than_count(kind: Kind) -> None:
    dataset, _ = example(3, kind, 1, 7, 1)
    rng = np.random.default_rng(0)
    found = [
        {"image_id": 0, "category_id": 1, "score": float(rng.random()), **rectangle(rng, kind)}
        for _ in range(130)
    ]
    fast = by_hotcoco(dataset, found, kind, THRESHOLDS)
    np.testing.assert_array_equal(fast, by_pycocotools(dataset, found, kind, THRESHOLDS))


@pytest.mark.parametrize("engine", [by_hotcoco, by_pycocotools])
def test_without_detections(engine: Any) -> None:
    dataset, _ = example(1, "bbox", 2, 6, 2)
    assert {*np.unique(engine(dataset, [], "bbox", THRESHOLDS))} <= {-1.0, 0.0}


def test_pycocotools_where_hotcoco_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, found = example(5, "bbox", 3, 7, 2)
    wanted = coco_precision(dataset, found, "bbox", THRESHOLDS)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hotcoco" else find(name))
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    np.testing.assert_array_equal(coco_precision(dataset, found, "bbox", THRESHOLDS), wanted)
    assert coco_precision({**dataset, "annotations": []}, found, "bbox", [0.5]).shape == (1, 101, 2, 4)


def test_a_forked_process_does_not_wait_for_threads_that_it_has_not(tmp_path: Path) -> None:
    dataset, found = example(5, "bbox", 3, 7, 2)
    wanted = coco_precision(dataset, found, "bbox", THRESHOLDS)

    def again() -> None:
        np.testing.assert_array_equal(coco_precision(dataset, found, "bbox", THRESHOLDS), wanted)

    (ended,) = run_forked([again], tmp_path, tmp_path, seconds=60)
    assert ended.code == 0, ended.err
