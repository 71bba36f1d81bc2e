"""One function an artifact: what is measured of it, as a flat list of named figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import Detections, GroundTruth, Points
from weaksam_cli.eval.baselines import best_contrast_detections, whole_image_detections
from weaksam_cli.eval.class_maps import ClassMaps
from weaksam_cli.eval.classification import classification_ap
from weaksam_cli.eval.coco_ap import coco_ap, coco_dataset, coco_results
from weaksam_cli.eval.conventions import PUBLISHED_RECALL
from weaksam_cli.eval.corloc import CORLOC_PROTOCOLS, corloc
from weaksam_cli.eval.peaks_inside import energy_inside, peaks_inside, unclassed_inside
from weaksam_cli.eval.pgt_quality import pseudo_box_quality
from weaksam_cli.eval.pointing_chance import any_pixel_inside, any_pixel_inside_any, centre_inside
from weaksam_cli.eval.proposal_recall import proposal_recall
from weaksam_cli.eval.proposal_set import ProposalSet
from weaksam_cli.eval.recall_curve import RecallCurve, recall_curve
from weaksam_cli.eval.recipe import EvalRecipe
from weaksam_cli.eval.results import PerClass
from weaksam_cli.eval.voc_ap import VOC_PROTOCOLS, voc_ap

Truth = Mapping[str, GroundTruth]


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        stage: the stage whose artifact was judged.
        variant: its variant, '' for the plain one.
        name: what was measured.
        value: a share in [0, 1] or a count; None where nothing could be measured.
        share: whether `value` is a share.
        classes: class -> figure, where the measure is a mean over classes.
    """

    stage: str
    variant: str
    name: str
    value: float | None
    share: bool = True
    classes: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the results file."""
        return {
            "stage": self.stage,
            "variant": self.variant,
            "name": self.name,
            "value": None if self.value is None else round(self.value, 6),
            "share": self.share,
            "classes": {name: round(value, 6) for name, value in self.classes.items()},
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _per_class(stage: str, variant: str, name: str, found: PerClass) -> Measure:
    known = {key: value for key, value in found.values.items() if not np.isnan(value)}
    return Measure(stage, variant, name, _number(found.mean), classes=known)


def measure_maps(
    truth: Truth | None,
    labels: Mapping[str, NDArray[np.bool_]],
    scores: Mapping[str, NDArray[np.float32]],
    maps: Mapping[str, Mapping[str, ClassMaps]],
    class_names: Sequence[str],
    variant: str,
) -> list[Measure]:
    """Classification by the maps' network, and the share of the maps' energy inside boxes; `maps` by kind and image."""
    judged = {key: labels[key] for key in scores if key in labels}
    found = []
    if judged:
        ap = classification_ap(judged, {key: scores[key] for key in judged}, class_names)
        found.append(_per_class("cam", variant, "classification mAP", ap))
    if truth is None:
        return found
    for kind, by_image in maps.items():
        inside = {key: value for key, value in by_image.items() if key in truth}
        if inside:
            energy = energy_inside(truth, inside, class_names)
            found.append(_per_class("cam", variant, f"energy of {kind} maps inside boxes", energy))
    return found


def measure_points(
    truth: Truth, points: Mapping[str, Mapping[str, Points]], class_names: Sequence[str], variant: str
) -> list[Measure]:
    """Share of peaks inside a box of their class: the best of each class, and all; `points` by kind and image.

    Peaks that lost their class when they were clustered may lie in a box of any.
    """
    found = []
    for kind, by_image in points.items():
        count = sum(len(item) for item in by_image.values())
        if count == 0:
            continue
        hits, unclassed = unclassed_inside(truth, by_image)
        if unclassed < count:
            best = peaks_inside(truth, by_image, class_names)
            every = peaks_inside(truth, by_image, class_names, only_best=False)
            found.append(_per_class("prompt", variant, f"{kind}: best peak inside a box", best))
            found.append(_per_class("prompt", variant, f"{kind}: all peaks inside a box", every))
        if unclassed:
            share = hits / unclassed
            found.append(Measure("prompt", variant, f"{kind}: peak inside a box of any class", share))
        mean = count / max(len(by_image), 1)
        found.append(Measure("prompt", variant, f"{kind}: peaks an image", mean, share=False))
    return found


def measure_pointing_chance(
    truth: Truth, sizes: Mapping[str, tuple[int, int]], class_names: Sequence[str], *, unclassed: bool
) -> list[Measure]:
    """What the peaks have to beat: any pixel, and the image's centre; with `unclassed`, in a box of any class, too."""
    found = [
        _per_class("baseline", "", f"peak inside a box: {name}", inside(truth, sizes, class_names))
        for name, inside in (("any pixel", any_pixel_inside), ("centre of the image", centre_inside))
    ]
    if unclassed:
        share = any_pixel_inside_any(truth, sizes)
        found.append(Measure("baseline", "", "peak inside a box of any class: any pixel", share))
    return found


def measure_proposals(
    truth: Truth, proposals: ProposalSet, recipe: EvalRecipe, variant: str
) -> list[Measure]:
    """Recall at each threshold and the mean number, of all proposals and of every source that occurs, alone."""
    found = _measure_boxes(truth, proposals.boxes, recipe, variant)
    for source, boxes in proposals.by_source().items():
        found += _measure_boxes(truth, boxes, recipe, variant, f": {source}")
    return found


def _measure_boxes(
    truth: Truth, boxes: Mapping[str, FloatArray], recipe: EvalRecipe, variant: str, suffix: str = ""
) -> list[Measure]:
    recall = proposal_recall(
        truth,
        boxes,
        thresholds=recipe.recall_thresholds,
        strict_denominator=recipe.strict_denominator,
        include_difficult=recipe.include_difficult,
        convention=PUBLISHED_RECALL,
    )
    found = [
        Measure("propose", variant, f"recall at IoU {threshold:g}{suffix}", _number(value))
        for threshold, value in recall.recall.items()
    ]
    count = Measure("propose", variant, f"proposals an image{suffix}", recall.mean_count, share=False)
    return [*found, count]


def measure_curve(truth: Truth, proposals: ProposalSet, recipe: EvalRecipe) -> RecallCurve:
    """Recall against how many of the proposals, the best first, are kept of an image; the last budget is all."""
    return recall_curve(
        truth,
        proposals.best_first(),
        budgets=(*recipe.recall_budgets, None),
        thresholds=recipe.recall_thresholds,
        strict_denominator=recipe.strict_denominator,
        include_difficult=recipe.include_difficult,
        convention=PUBLISHED_RECALL,
    )


def measure_detections(
    truth: Truth,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    recipe: EvalRecipe,
    stage: str,
    variant: str,
) -> list[Measure]:
    """VOC AP by each protocol, and COCO AP."""
    found = [
        _per_class(
            stage,
            variant,
            f"VOC AP50 ({name})",
            voc_ap(truth, detections, class_names, protocol=VOC_PROTOCOLS[name]),
        )
        for name in recipe.voc_ap
    ]
    if recipe.coco_ap:
        dataset, numbers = coco_dataset(truth, class_names)
        figures = coco_ap(dataset, coco_results(detections, numbers))
        found += [
            Measure(stage, variant, "COCO AP", _number(figures.ap)),
            Measure(stage, variant, "COCO AP50", _number(figures.ap50)),
            Measure(stage, variant, "COCO AP75", _number(figures.ap75)),
        ]
    return found


def measure_corloc(
    truth: Truth,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    recipe: EvalRecipe,
    stage: str,
    variant: str,
    suffix: str = "",
) -> list[Measure]:
    """CorLoc by each protocol."""
    return [
        _per_class(
            stage,
            variant,
            f"CorLoc ({name}){suffix}",
            corloc(truth, detections, class_names, protocol=CORLOC_PROTOCOLS[name]),
        )
        for name in recipe.corloc
    ]


def measure_baselines(
    truth: Truth,
    sizes: Mapping[str, tuple[int, int]],
    classes: Mapping[str, Sequence[int]],
    proposals: Mapping[str, FloatArray],
    maps: Mapping[str, ClassMaps],
    class_names: Sequence[str],
    recipe: EvalRecipe,
) -> list[Measure]:
    """CorLoc of the two trivial answers: the whole image, and the proposal with the best class-map contrast."""
    first = recipe.model_copy(update={"corloc": recipe.corloc[:1]})
    whole = whole_image_detections(sizes, classes)
    found = measure_corloc(truth, whole, class_names, first, "baseline", "", ": whole image")
    common = {key: maps[key] for key in maps if key in proposals}
    if common:
        contrast = best_contrast_detections(
            {key: proposals[key] for key in common}, common, ring_factor=recipe.ring_factor
        )
        found += measure_corloc(
            truth, contrast, class_names, first, "baseline", "", ": best class-map contrast"
        )
    return found


def measure_pseudo_boxes(
    truth: Truth, boxes: Mapping[str, Detections], class_names: Sequence[str], variant: str
) -> list[Measure]:
    """Precision and recall at IoU .5, and the number of boxes."""
    quality = pseudo_box_quality(truth, boxes, class_names)
    count = sum(len(item) for item in boxes.values())
    return [
        Measure("pgt", variant, "precision at IoU 0.5", _number(quality.total_precision)),
        Measure("pgt", variant, "recall at IoU 0.5", _number(quality.total_recall)),
        Measure("pgt", variant, "pseudo boxes an image", count / max(len(boxes), 1), share=False),
    ]
