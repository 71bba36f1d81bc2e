"""CorLoc: how often the best box of a class that is in the image lies on an object of it (spec 07 §2).

And the trivial detectors that a trained one has to beat in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.core.boxes import FloatArray, as_boxes, clip, scale
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.data.fused_maps import FusedMaps
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.matching import (
    DETECTRON2_TEXT,
    MIST_CORLOC,
    THRESHOLD,
    Convention,
    Float64Array,
    best_overlaps,
)

SMALLEST_AREA = 1e-6


@dataclass(frozen=True)
class CorlocProtocol:
    """How boxes are compared and which images count.

    Attributes:
        convention: how boxes are read and compared.
        count_difficult_only: whether an image counts whose objects of the class are all difficult.
    """

    convention: Convention
    count_difficult_only: bool


CorlocName = Literal["weaksam", "mist", "detectron2"]
CORLOC_PROTOCOLS: dict[CorlocName, CorlocProtocol] = {
    "weaksam": CorlocProtocol(Convention(strict=True), count_difficult_only=True),
    "mist": CorlocProtocol(MIST_CORLOC, count_difficult_only=True),
    "detectron2": CorlocProtocol(DETECTRON2_TEXT, count_difficult_only=False),
}
"""Our own (IoU of float boxes without +1, above 0.5), MIST's (the likely one of the paper's Table 4), and the fork's."""


class CorlocSettings(RecipeModel):
    """How CorLoc is counted.

    Attributes:
        corloc: protocols; the first is the headline.
        ring_factor: ring of the class-map contrast baseline, relative to the box, as of ContextLocNet's context region.
    """

    corloc: tuple[CorlocName, ...] = Field(default=("mist", "weaksam", "detectron2"), max_length=10)
    ring_factor: float = Field(default=1.8, gt=1, le=100)


def evaluate(case: Case, settings: CorlocSettings) -> list[Metric]:
    """CorLoc by each protocol, on training splits; with a plain WSOD detector, what the trivial answers get."""
    if not case.labels.is_train:
        return []
    names = case.class_names
    found = [
        case.per_class(f"CorLoc ({name})", corloc(case.truth, case.detections, names, CORLOC_PROTOCOLS[name]))
        for name in settings.corloc
    ]
    if (case.stage, case.variant) == ("wsod", ""):
        baseline = replace(case, stage="baseline")
        found += [
            baseline.per_class(
                f"CorLoc ({name}): {which}", corloc(case.truth, answer, names, CORLOC_PROTOCOLS[name])
            )
            for which, answer in trivial_answers(case, settings.ring_factor).items()
            for name in settings.corloc[:1]
        ]
    return found


def trivial_answers(case: Case, ring_factor: float) -> dict[str, dict[str, Detections]]:
    """The whole image, and the proposal with the best class-map contrast where there are both."""
    classes = {image.key: case.labels.class_indexes(image) for image in case.labels.file.images}
    answers = {"whole image": whole_image_detections(case.sizes, classes)}
    if {"propose", "cam"} <= case.artifacts.keys():
        proposals = {key: item.boxes for key, item in case.proposals(case.artifacts["propose"]).items()}
        maps = case.maps(case.artifacts["cam"]).get("coarse", {})
        if maps.keys() & proposals.keys():
            answers["best class-map contrast"] = best_contrast_detections(proposals, maps, ring_factor)
    return answers


def corloc(
    truth: Truth, detections: Mapping[str, Detections], class_names: list[str], protocol: CorlocProtocol
) -> PerClass:
    """Share of the images with a class whose best-scored box of it overlaps one of its objects enough.

    Of equal scores the first wins. Any object of the class may be hit, a difficult one as well.

    Args:
        truth: image key to objects.
        detections: image key to detections; a missing image has none.
        class_names: names of the classes, in the order of the class indexes.
        protocol: see `CORLOC_PROTOCOLS`.

    Returns:
        CorLoc of every class; the support is the number of images that count.

    Raises:
        UserError: for detections of an image that the ground truth does not hold.
    """
    n_classes = len(class_names)
    overlaps = best_overlaps(truth, detections, n_classes, protocol.convention)
    counting = protocol.count_difficult_only | ~overlaps.difficult
    positives = np.unique(overlaps.objects_group[counting])
    order = np.argsort(-overlaps.scores, kind="stable")
    found, first = np.unique(overlaps.group[order], return_index=True)
    reached = protocol.convention.reaches(overlaps.best[order[first]], THRESHOLD)
    hits = found[reached & np.isin(found, positives)]
    return PerClass.ratio(
        class_names,
        np.bincount(hits % n_classes, minlength=n_classes),
        np.bincount(positives % n_classes, minlength=n_classes),
    )


def whole_image_detections(
    sizes: Mapping[str, tuple[int, int]], classes: Mapping[str, Sequence[int]]
) -> dict[str, Detections]:
    """The whole image as the box of every image-level label.

    Args:
        sizes: image key to height and width.
        classes: image key to the classes of its label.
    """
    answer = {}
    for key, labels in classes.items():
        height, width = sizes[key]
        answer[key] = Detections(
            as_boxes([[0, 0, width, height]] * len(labels)),
            np.asarray(labels, dtype=np.int32).reshape(-1),
            np.ones(len(labels), dtype=np.float32),
        )
    return answer


def best_contrast_detections(
    proposals: Mapping[str, FloatArray], maps: Mapping[str, FusedMaps], ring_factor: float
) -> dict[str, Detections]:
    """The proposal with the best contrast of the class map, for every class of every image with maps.

    Args:
        proposals: image key to boxes float32 (n, 4), xyxy pixel edges.
        maps: image key to the maps of the classes of its label.
        ring_factor: see `contrast`.

    Returns:
        Image key to one detection a class, its score the contrast; none where there is no proposal with an area.
    """
    answer = {}
    for key, image in maps.items():
        boxes = proposals.get(key, as_boxes([]))
        if len(boxes) == 0:
            answer[key] = Detections.empty()
            continue
        values = contrast(boxes, image, ring_factor)
        best, largest = values.argmax(axis=1), values.max(axis=1)
        found = np.isfinite(largest)
        answer[key] = Detections(
            boxes[best[found]], image.class_index[found], largest[found].astype(np.float32)
        )
    return answer


def contrast(boxes: FloatArray, image: FusedMaps, ring_factor: float) -> Float64Array:
    """Mean of every map inside every box minus its mean in the ring around the box.

    The ring is the box with its sides enlarged by `ring_factor` about its centre, cut to the image, without the
    box. A box without a ring, such as the whole image, has the contrast 0; one without an area minus infinity.

    Args:
        boxes: float32 (n, 4), xyxy pixel edges of the image.
        image: maps (k, h, w).
        ring_factor: above 1.

    Returns:
        float64 (k, n).
    """
    height, width = image.maps.shape[1:]
    inner = clip(boxes, image.height, image.width)
    centre = (inner[:, :2] + inner[:, 2:]) / 2
    reach = (inner[:, 2:] - inner[:, :2]) / 2 * np.float32(ring_factor)
    outer = clip(np.concatenate([centre - reach, centre + reach], axis=1), image.height, image.width)
    factors = (width / image.width, height / image.height)
    integral = integral_images(image.maps)
    inside, inside_area = box_sums(integral, scale(inner, *factors))
    enlarged, enlarged_area = box_sums(integral, scale(outer, *factors))
    ring_area = enlarged_area - inside_area
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = inside / inside_area - (enlarged - inside) / ring_area
    difference = np.where(ring_area > SMALLEST_AREA, difference, 0)
    return np.where(inside_area > SMALLEST_AREA, difference, -np.inf)


def integral_images(maps: NDArray[np.floating]) -> Float64Array:
    """Sums of maps (k, h, w) above and left of every corner, (k, h + 1, w + 1)."""
    return np.pad(maps.astype(np.float64).cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))


def box_sums(integral: Float64Array, boxes: NDArray[np.floating]) -> tuple[Float64Array, Float64Array]:
    """Integral (k, n) of the maps over boxes in cells of the map, fractions of cells included, and areas (n,)."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    sums = _corner(integral, y2, x2) - _corner(integral, y1, x2) - _corner(integral, y2, x1)
    return sums + _corner(integral, y1, x1), np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)


def _corner(integral: Float64Array, y: Float64Array, x: Float64Array) -> Float64Array:
    """The integral at fractional corners: bilinear between whole ones, exact for maps constant within a cell."""
    row = np.clip(np.floor(y), 0, integral.shape[1] - 2).astype(np.int64)
    column = np.clip(np.floor(x), 0, integral.shape[2] - 2).astype(np.int64)
    down, right = y - row, x - column
    upper = integral[:, row, column] * (1 - right) + integral[:, row, column + 1] * right
    lower = integral[:, row + 1, column] * (1 - right) + integral[:, row + 1, column + 1] * right
    return upper * (1 - down) + lower * down
