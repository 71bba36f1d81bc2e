"""Reads each artifact and hands it to its measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, cam_schema, fuse_scales, read_class_maps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.core.types import GroundTruth, Points
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import Labels
from weaksam_cli.eval import measures
from weaksam_cli.eval.class_maps import ClassMaps
from weaksam_cli.eval.measures import Measure, Truth
from weaksam_cli.eval.proposal_set import read_proposals
from weaksam_cli.eval.recall_curve import RecallCurve
from weaksam_cli.eval.recipe import EvalRecipe

_FUSED_SHORT_SIDE = 64


class Judge:
    """Judges the artifacts of one split against its ground truth (None: labels alone)."""

    def __init__(self, truth: dict[str, GroundTruth] | None, labels: Labels, recipe: EvalRecipe) -> None:
        self._truth = truth
        self._labels = labels
        self._recipe = recipe
        self._images = labels.by_key()

    def judge(self, name: str, path: Path, artifacts: Mapping[str, Path]) -> list[Measure]:
        """All measures of one artifact; `name` is `stage` or `stage@variant`."""
        stage, _, variant = name.partition("@")
        if stage == "cam":
            return self._cam(path, variant)
        truth = self._truth
        if truth is None or stage == "data":
            return []
        if stage == "prompt":
            return self._points(truth, path, variant)
        if stage == "propose":
            return measures.measure_proposals(truth, read_proposals(path), self._recipe, variant)
        if stage == "pgt":
            boxes = read_detections(path, self._labels)
            return measures.measure_pseudo_boxes(truth, boxes, self._labels.class_names, variant)
        return self._detections(truth, stage, variant, path, artifacts)

    def curve(self, name: str, path: Path) -> RecallCurve | None:
        """Recall against the number of proposals; None for an artifact without proposals, or without ground truth."""
        if self._truth is None or name.partition("@")[0] != "propose":
            return None
        return measures.measure_curve(self._truth, read_proposals(path), self._recipe)

    def _cam(self, path: Path, variant: str) -> list[Measure]:
        labels: dict[str, NDArray[np.bool_]] = {}
        for key, image in self._images.items():
            if image.labels is not None:
                labels[key] = np.isin(
                    np.arange(len(self._labels.class_names)), self._labels.class_indexes(image)
                )
        scores: dict[str, NDArray[np.float32]] = {}
        with open_artifact(path, cam_schema(len(self._labels.class_names))) as artifact:
            for key in artifact:
                scores[key] = artifact.image_value(key, "class_scores").astype(np.float32)
        maps = {kind: found for kind in KINDS if (found := self._maps(path, kind))}
        return measures.measure_maps(self._truth, labels, scores, maps, self._labels.class_names, variant)

    def _maps(self, path: Path, kind: str) -> dict[str, ClassMaps]:
        """Fused maps of a kind at low resolution, of the classes that an image really shows."""
        found = {}
        with open_artifact(path, cam_schema(len(self._labels.class_names)), verify=False) as artifact:
            for key in artifact:
                maps = read_class_maps(artifact, key)
                height, width = maps.image_size
                factor = _FUSED_SHORT_SIDE / min(height, width)
                fused = fuse_scales(
                    maps, KINDS.index(kind), max(1, round(height * factor)), max(1, round(width * factor))
                )
                if fused is None:
                    continue
                present = set(self._labels.class_indexes(self._images[key]))
                rows = [row for row, index in enumerate(maps.classes()) if index in present]
                flat = fused.mean(axis=1) if fused.ndim == 4 else fused
                if rows:
                    classes = np.asarray(maps.classes(), np.int32)[rows]
                    found[key] = ClassMaps(classes, flat[rows], height, width)
        return found

    def _points(self, truth: Truth, path: Path, variant: str) -> list[Measure]:
        by_kind: dict[str, dict[str, Points]] = {kind: {} for kind in KINDS}
        with open_artifact(path, POINTS) as artifact:
            for key in artifact:
                for kind, points in read_points(artifact, key).items():
                    by_kind[kind][key] = points
        names = self._labels.class_names
        found = measures.measure_points(truth, by_kind, names, variant)
        if variant:
            return found
        shown = {key: truth[key] for key in truth if key in self._images}
        lost = any(bool((item.class_index < 0).any()) for kind in by_kind.values() for item in kind.values())
        return found + measures.measure_pointing_chance(shown, self._sizes(), names, unclassed=lost)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        return {key: (image.height, image.width) for key, image in self._images.items()}

    def _detections(
        self, truth: Truth, stage: str, variant: str, path: Path, artifacts: Mapping[str, Path]
    ) -> list[Measure]:
        detections = read_detections(path, self._labels)
        names = self._labels.class_names
        found: list[Measure] = []
        if self._labels.is_train:
            found += measures.measure_corloc(truth, detections, names, self._recipe, stage, variant)
            if stage == "wsod" and not variant:
                found += self._baselines(truth, artifacts)
        return found + measures.measure_detections(truth, detections, names, self._recipe, stage, variant)

    def _baselines(self, truth: Truth, artifacts: Mapping[str, Path]) -> list[Measure]:
        sizes = self._sizes()
        classes = {key: self._labels.class_indexes(image) for key, image in self._images.items()}
        proposals = read_proposals(artifacts["propose"]).boxes if "propose" in artifacts else {}
        maps = self._maps(artifacts["cam"], "coarse") if "cam" in artifacts else {}
        return measures.measure_baselines(
            truth, sizes, classes, proposals, maps, self._labels.class_names, self._recipe
        )
