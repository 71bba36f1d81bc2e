"""What the sharded steps of the embedded detectors do to each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import cam_schema, read_class_maps
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.execution import ImageFunction
from weaksam_cli.wsod.recipe import RegionDetectorRecipe


@dataclass(frozen=True)
class Sources:
    """Where a step reads.

    Attributes:
        labels, cam, proposals: artifacts of one split.
        image_root: folder of the images.
    """

    labels: Path
    cam: Path
    proposals: Path
    image_root: Path


@dataclass(frozen=True)
class SampleWork:
    """Cells and RoIs of one training image, to learn the basis from."""

    sources: Sources
    recipe: RegionDetectorRecipe
    seed: int

    def open(self) -> ImageFunction:
        """Load the backbone once a process."""
        from weaksam_cli.models.lite0 import load_lite0
        from weaksam_cli.wsod.dense import fold_of
        from weaksam_cli.wsod.image_features import image_features, image_samples, usable_boxes

        labels = read_labels(self.sources.labels, self.sources.image_root)
        images, backbone = labels.by_key(), load_lite0()
        cam = open_artifact(self.sources.cam, cam_schema(0), verify=False)
        proposals = open_artifact(self.sources.proposals, PROPOSALS, verify=False)

        def function(image_id: str) -> ImageRows:
            image = labels.read_image(images[image_id])
            features = image_features(backbone, image, self.recipe.dense.short_side)
            raw = proposals.rows(image_id, "boxes").astype(np.float32)
            boxes = usable_boxes(raw, *features.image_size, self.recipe.proposals)
            cells, targets, pooled = image_samples(
                features, read_class_maps(cam, image_id), boxes, self.recipe, image_id, self.seed
            )
            return ImageRows(
                {"fold": np.asarray([fold_of(image_id, self.recipe.dense.folds)], np.int8)},
                blobs={"cells": [cells], "cell_labels": [targets], "pooled": [pooled]},
            )

        return function


@dataclass(frozen=True)
class RegionWork:
    """RoI features and prior of one image."""

    sources: Sources
    recipe: RegionDetectorRecipe
    basis: Path
    is_training: bool

    def open(self) -> ImageFunction:
        """Load backbone and basis once a process."""
        from weaksam_cli.models.lite0 import load_lite0
        from weaksam_cli.wsod.basis import Basis
        from weaksam_cli.wsod.image_features import (
            class_map_prior,
            image_features,
            region_features,
            usable_boxes,
        )

        labels = read_labels(self.sources.labels, self.sources.image_root)
        names, images, backbone = labels.class_names, labels.by_key(), load_lite0()
        basis = Basis.read(self.basis, names)
        cam = open_artifact(self.sources.cam, cam_schema(len(names)), verify=False)
        proposals = open_artifact(self.sources.proposals, PROPOSALS, verify=False)
        recipe = self.recipe

        def function(image_id: str) -> ImageRows:
            image = labels.read_image(images[image_id])
            features = image_features(backbone, image, recipe.dense.short_side)
            raw = proposals.rows(image_id, "boxes").astype(np.float32)
            boxes = usable_boxes(raw, *features.image_size, recipe.proposals)
            held_out = image_id if self.is_training else None
            classes = read_class_maps(cam, image_id).classes()
            return ImageRows(
                {
                    "boxes": boxes,
                    "features": region_features(features, boxes, basis, recipe, held_out),
                    "prior": class_map_prior(features, boxes, basis, classes, recipe.prior, len(names)),
                },
                {
                    "image_size": np.asarray(features.image_size, np.int32),
                    "class_scores": cam.image_value(image_id, "class_scores"),
                },
            )

        return function


@dataclass(frozen=True)
class DetectWork:
    """Detections of one image from its RoI features."""

    regions: Path
    model: Path
    recipe: RegionDetectorRecipe
    n_classes: int

    def open(self) -> Callable[[str], Detections]:
        """Load the heads once a process."""
        from weaksam_cli.wsod.detect import select_detections
        from weaksam_cli.wsod.fit import image_item, load_detector

        regions = open_artifact(self.regions, verify=False)
        detector = load_detector(self.model, self.recipe)
        inference = self.recipe.inference

        def function(image_id: str) -> Detections:
            import torch

            item = image_item(regions, image_id, torch.zeros(self.n_classes))
            with torch.inference_mode():
                scores = detector([item])[0].numpy().astype(np.float32)
            boxes = item["proposals"].proposal_boxes.tensor.numpy()
            return select_detections(
                boxes,
                scores,
                score_threshold=inference.score_threshold,
                nms_threshold=inference.nms,
                most=inference.detections,
            )

        return function
