"""CorLoc: how often the best box of a class that is in the image lies on an object of it (spec 07 §2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.eval.baselines import best_contrast_detections, whole_image_detections
from weaksam_cli.eval.case import Case, Metric, PerClass, Truth
from weaksam_cli.eval.maps import fused_maps
from weaksam_cli.eval.matching import DETECTRON2_TEXT, MIST_CORLOC, THRESHOLD, Convention, best_overlaps
from weaksam_cli.eval.recall import proposals_of


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

    corloc: tuple[CorlocName, ...] = ("mist", "weaksam", "detectron2")
    ring_factor: float = Field(default=1.8, gt=1)


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
        proposals = {key: item.boxes for key, item in proposals_of(case.artifacts["propose"]).items()}
        maps = fused_maps(case.artifacts["cam"], "coarse", case.labels)
        common = {key: maps[key] for key in maps if key in proposals}
        if common:
            answers["best class-map contrast"] = best_contrast_detections(proposals, common, ring_factor)
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
        ValueError: for classes outside `class_names`.
    """
    n_classes = len(class_names)
    overlaps = best_overlaps(truth, detections, n_classes, protocol.convention)
    annotated, detected = overlaps.annotated, overlaps.detected
    counting = protocol.count_difficult_only | (annotated.weight == 0)
    positives = np.unique(annotated.group[counting])
    order = np.argsort(-detected.weight, kind="stable")
    found, first = np.unique(detected.group[order], return_index=True)
    reached = protocol.convention.reaches(overlaps.best[order[first]], THRESHOLD)
    hits = found[reached & np.isin(found, positives)]
    return PerClass.ratio(
        class_names,
        np.bincount(hits % n_classes, minlength=n_classes),
        np.bincount(positives % n_classes, minlength=n_classes),
    )
