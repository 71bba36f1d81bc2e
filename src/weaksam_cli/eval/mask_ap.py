"""Mask average precision the VOC way, as is usual in weakly supervised instance segmentation (spec 07 §5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.eval.case import PerClass
from weaksam_cli.eval.coco_ap import MASK_THRESHOLDS, CocoJson, load_quietly
from weaksam_cli.eval.matching import Matches, first_claims
from weaksam_cli.eval.voc_ap import average_precisions


def mask_ap_voc(
    dataset: CocoJson, results: Sequence[Mapping[str, Any]], *, thresholds: Sequence[float] = MASK_THRESHOLDS
) -> dict[float, PerClass]:
    """Area under the precision-recall curve of masks, per class, at every IoU threshold.

    A mask stands or falls with the object of its class that it overlaps most; crowds count neither way.

    Args:
        dataset: COCO ground truth with masks, as loaded from JSON.
        results: COCO results with RLE masks, as loaded from JSON.
        thresholds: IoU thresholds; equality counts.
    """
    truth, found = load_quietly(dataset, results)
    categories = sorted(dataset["categories"], key=lambda item: item["id"])
    index_of = {item["id"]: index for index, item in enumerate(categories)}
    objects = sorted(truth.anns.values(), key=lambda item: item["id"])
    crowd = np.asarray([bool(item.get("iscrowd", 0)) for item in objects], dtype=bool)
    object_class = np.asarray([index_of[item["category_id"]] for item in objects], dtype=np.int64)
    masks = sorted(found.anns.values(), key=lambda item: item["id"])
    best, claimed = _best_overlaps(truth, objects, masks)
    scores = np.asarray([item["score"] for item in masks], dtype=np.float64)
    mask_class = np.asarray([index_of[item["category_id"]] for item in masks], dtype=np.int64)
    n_objects = np.bincount(object_class[~crowd], minlength=len(categories))
    names = [item["name"] for item in categories]
    answer = {}
    for threshold in thresholds:
        order, status = first_claims(claimed, (claimed >= 0) & (best >= threshold), crowd, scores)
        answer[threshold] = average_precisions(Matches(mask_class[order], status, n_objects), names, "area")
    return answer


def _best_overlaps(
    truth: Any, objects: Sequence[Mapping[str, Any]], masks: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The largest IoU of every mask with an object of its image and class, and the object's position; -1: none."""
    from pycocotools import mask as coco_mask

    positions: dict[tuple[int, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, items in enumerate((objects, masks)):
        for position, item in enumerate(items):
            positions[item["image_id"], item["category_id"]][side].append(position)
    best, claimed = np.full(len(masks), -1.0), np.full(len(masks), -1, dtype=np.int64)
    for wanted, offered in positions.values():
        if not wanted or not offered:
            continue
        overlap = coco_mask.iou(
            [truth.annToRLE(masks[position]) for position in offered],
            [truth.annToRLE(objects[position]) for position in wanted],
            [0] * len(wanted),
        )
        best[offered] = overlap.max(axis=1)
        claimed[offered] = np.asarray(wanted)[overlap.argmax(axis=1)]
    return best, claimed
