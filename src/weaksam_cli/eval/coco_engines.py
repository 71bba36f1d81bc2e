"""COCO's matching of detections and objects, by hotcoco where it can be had, else by pycocotools, which is slower.

Both give the same figures to the last bit. hotcoco computes with threads, which a forked process does not inherit and would
wait for: there pycocotools computes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["bbox", "segm"]
CocoJson = Mapping[str, Any]
SIZES: Final = ("small", "medium", "large")
"""COCO's ranges of areas, beside all, in COCOeval's order."""
MAX_DETECTIONS: Final = 100
"""Detections of an image and class that count."""
_WITH_THREADS: Final[set[int]] = set()
"""The process, and those it was forked from, in which hotcoco has started its threads."""


def coco_precision(
    dataset: CocoJson, results: Sequence[Mapping[str, Any]], kind: Kind, thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """COCOeval's precision (thresholds, 101 recalls, classes, sizes); sizes are all, small, medium, large.

    -1 stands where there is no object. What is given stays unchanged.

    Args:
        dataset: COCO ground truth as loaded from JSON; ids of annotations are given anew.
        results: COCO results as loaded from JSON.
        kind: compare boxes (`bbox`) or masks (`segm`, RLE).
        thresholds: of IoU, increasing.
    """
    # pycocotools takes an annotation with the id 0 for a missing match.
    annotations = [{**item, "id": number} for number, item in enumerate(dataset["annotations"], start=1)]
    if not annotations:
        return np.full((len(thresholds), 101, len(dataset["categories"]), 1 + len(SIZES)), -1.0)
    is_usable = importlib.util.find_spec("hotcoco") is not None and {os.getpid()} >= _WITH_THREADS
    engine = by_hotcoco if is_usable else by_pycocotools
    return engine({**dataset, "annotations": annotations}, results, kind, thresholds)


def by_hotcoco(
    dataset: CocoJson, results: Sequence[Mapping[str, Any]], kind: Kind, thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """`coco_precision` of a dataset with objects, whose annotations have ids above 0."""
    from hotcoco import COCO, COCOeval

    _WITH_THREADS.add(os.getpid())
    truth = COCO(dict(dataset))
    return _precision(COCOeval(truth, truth.loadRes([dict(item) for item in results]), kind), thresholds)


def by_pycocotools(
    dataset: CocoJson, results: Sequence[Mapping[str, Any]], kind: Kind, thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """`coco_precision` of a dataset with objects, whose annotations have ids above 0."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def indexed(content: CocoJson) -> Any:
        coco = COCO()
        coco.dataset = {"info": {}, **content}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        truth = indexed(dataset)
        found = truth.loadRes([dict(item) for item in results]) if results else None
        return _precision(COCOeval(truth, found or indexed({**dataset, "annotations": []}), kind), thresholds)


def _precision(evaluation: Any, thresholds: Sequence[float]) -> NDArray[np.float64]:
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.params.iouThrs = np.asarray(thresholds, dtype=np.float64)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][..., 0], dtype=np.float64)
