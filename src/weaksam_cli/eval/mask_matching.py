"""Matching of predicted masks with annotated ones: what counts as an object, and the overlaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.eval.case import Case, Truth
from weaksam_cli.eval.matching import Float64Array, IndexArray, Overlaps, groups, in_order, joined

Sizes = Mapping[str, tuple[int, int]]
"""Image key to height and width."""
CROWD_LAYOUTS: Final = frozenset({"coco", "datumaro"})
"""Where the flag of an object says that it is a crowd, whose mask is no object's; elsewhere it is VOC's."""


class MaskSettings(RecipeModel):
    """Which objects count where masks are compared.

    Attributes:
        mask_difficult: whether objects with VOC's flag count. Its segmentation task has no such flag, so chainercv's
            evaluation and that of most papers count them. Crowds of COCO never do.
    """

    mask_difficult: Literal["include", "exclude"] = "include"


def masks_of(
    case: Case, settings: MaskSettings
) -> tuple[dict[str, GroundTruth], dict[str, Detections]] | None:
    """The objects with masks and what was found in their images; None where one of them has no mask at all.

    Many a dataset has masks of some images alone, as VOC has: the others are left out. In an image with masks, an object
    without one is no object, as VOC's evaluations of masks read no boxes. An image of whose detections one has no mask
    counts as one without detections.
    """
    if not case.has_masks:
        return None
    flagged = settings.mask_difficult == "exclude" or case.layout in CROWD_LAYOUTS
    truth = {
        key: objects if flagged else replace(objects, difficult=np.zeros(len(objects), np.bool_))
        for key, whole in case.truth.items()
        if (objects := _masked(whole)) is not None
    }
    found = {key: item for key, item in case.detections.items() if key in truth}
    if not any(map(len, truth.values())):
        return None
    return truth, {key: item for key, item in found.items() if item.masks is not None}


def _masked(objects: GroundTruth) -> GroundTruth | None:
    """The objects with masks; None for an image whose masks nobody drew."""
    drawn = np.asarray([mask is not None for mask in objects.masks or ()], np.bool_)
    if objects.masks is None or (len(drawn) and not drawn.any()):
        return None
    return objects.take(drawn)


def run_lengths(items: GroundTruth | Detections, size: tuple[int, int]) -> list[dict[str, Any]]:
    """The masks of an image of a height and width as pycocotools takes them; all items have one."""
    return [{"size": [*size], "counts": mask} for mask in items.masks or ()]


def mask_ious(
    truth: Truth, detections: Mapping[str, Detections], sizes: Sizes
) -> Iterator[tuple[IndexArray, IndexArray, Float64Array]]:
    """Rows of objects (m,) and of detections (n,), counted over all images, and their IoU (n, m), by image and class.

    Images and classes without either are passed over.
    """
    from pycocotools import mask as coco_mask

    first_object = first_mask = 0
    for (key, objects), found in zip(
        truth.items(), in_order(truth, detections, Detections.empty(), name="masks"), strict=True
    ):
        drawn, offers = run_lengths(objects, sizes[key]), run_lengths(found, sizes[key])
        for class_index in np.intersect1d(objects.class_index, found.class_index):
            wanted = np.flatnonzero(objects.class_index == class_index)
            offered = np.flatnonzero(found.class_index == class_index)
            overlap = coco_mask.iou(
                [offers[row] for row in offered], [drawn[row] for row in wanted], [0] * len(wanted)
            )
            yield first_object + wanted, first_mask + offered, np.asarray(overlap, np.float64)
        first_object, first_mask = first_object + len(objects), first_mask + len(found)


def best_mask_overlaps(
    truth: Truth, detections: Mapping[str, Detections], n_classes: int, sizes: Sizes
) -> tuple[Overlaps, Float64Array]:
    """The largest IoU of every mask, and of every object with a mask of its class: float64 (objects,), 0 without one.

    Raises:
        UserError: for masks of an image that the ground truth does not hold.
    """
    objects = [*truth.values()]
    found = in_order(truth, detections, Detections.empty(), name="masks")
    group = groups(found, n_classes)
    best, claimed = np.full(len(group), -1.0), np.full(len(group), -1, dtype=np.int64)
    of_object = np.zeros(sum(map(len, objects)))
    for wanted, offered, overlap in mask_ious(truth, detections, sizes):
        best[offered], claimed[offered] = overlap.max(axis=1), wanted[overlap.argmax(axis=1)]
        of_object[wanted] = overlap.max(axis=0)
    difficult = joined([item.difficult for item in objects]).astype(bool)
    scores = joined([item.scores for item in found]).astype(np.float64)
    return Overlaps(groups(objects, n_classes), difficult, group, scores, best, claimed), of_object
