"""Train the weakly supervised heads over the RoI features of an artifact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import EpochSampler, sampled
from weaksam_cli.training.checkpoint import load_model, model_bytes, read_metadata
from weaksam_cli.training.loop import train
from weaksam_cli.training.run import TrainingRun
from weaksam_cli.training.schedule import LearningRateSchedule
from weaksam_cli.wsod.host import PrecomputedRegionDetector, as_instances, build_region_detector
from weaksam_cli.wsod.recipe import RegionDetectorRecipe, ScheduleSettings

_DEVIATION_FLOOR = 0.02
"""Keeps grid cells that are almost always empty from being blown up."""


def image_item(regions: Artifact, image_id: str, image_labels: Tensor) -> dict[str, Any]:
    """One image of a regions artifact as the detector takes it."""
    height, width = (int(side) for side in regions.image_value(image_id, "image_size"))
    columns = {
        name: torch.from_numpy(regions.rows(image_id, name).astype(np.float32))
        for name in ("boxes", "features", "prior")
    }
    return {
        "proposals": as_instances(columns["boxes"], columns["features"], columns["prior"], height, width),
        "image_labels": image_labels,
        "class_scores": torch.from_numpy(regions.image_value(image_id, "class_scores").astype(np.float32)),
        "image_id": image_id,
    }


def feature_statistics(
    regions: Artifact, image_ids: Sequence[str], n_projected: int
) -> tuple[Tensor, Tensor]:
    """Mean and deviation (D,) that standardise RoI features; projected ones, whitened already, keep theirs (0 and 1)."""
    total = squares = np.zeros(0)
    count = 0
    for image_id in image_ids:
        rows = regions.rows(image_id, "features").astype(np.float64)
        total = rows.sum(axis=0) + (total if count else 0)
        squares = (rows**2).sum(axis=0) + (squares if count else 0)
        count += len(rows)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0)) + _DEVIATION_FLOOR
    mean[:n_projected], deviation[:n_projected] = 0, 1
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(deviation.astype(np.float32))


def iterations_of(schedule: ScheduleSettings, n_images: int) -> int:
    """Steps of a training over so many images."""
    return schedule.epochs * math.ceil(n_images / schedule.batch_size)


def fit_detector(
    recipe: RegionDetectorRecipe,
    regions: Artifact,
    labels: dict[str, Tensor],
    class_names: list[str],
    *,
    n_projected: int,
    run: TrainingRun,
) -> bytes:
    """Train, going on from the checkpoint where there is one; returns the model as a safetensors file.

    Args:
        recipe: what to train.
        regions: RoI features of the training split.
        labels: image -> float (C,), for the images that are learnt from.
        class_names: names of the C classes.
        n_projected: how many leading features are principal components.
        run: where and from which seed.

    Raises:
        UserError: there is nothing to learn from.
    """
    image_ids = [image_id for image_id in regions.image_ids if image_id in labels]
    if not image_ids:
        raise UserError("no training image has both proposals and labels", where=str(regions.path))
    torch.manual_seed(run.seed)
    mean, deviation = feature_statistics(regions, image_ids, n_projected)
    detector = build_region_detector(recipe, len(mean), len(class_names))
    detector.roi_heads.set_statistics(mean, deviation)
    detector.to(run.device).train()
    schedule = recipe.schedule
    iterations = iterations_of(schedule, len(image_ids))
    sampler = EpochSampler(len(image_ids), schedule.batch_size, run.seed)

    def load_item(_: int, __: int, index: int) -> dict[str, Any]:
        return image_item(regions, image_ids[index], labels[image_ids[index]])

    rates = LearningRateSchedule(iterations, warmup_iterations=schedule.warmup_iterations, cosine=True)
    optimizer = torch.optim.Adam(
        detector.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    train(detector, optimizer, sampled(sampler, load_item), rates, run)
    return model_bytes(detector, {"class_names": class_names, "feature_size": len(mean)})


def load_detector(path: Path, recipe: RegionDetectorRecipe) -> PrecomputedRegionDetector:
    """A trained detector in evaluation mode."""
    metadata = read_metadata(path)
    detector = build_region_detector(recipe, metadata["feature_size"], len(metadata["class_names"]))
    load_model(detector, path)
    return detector.eval()
