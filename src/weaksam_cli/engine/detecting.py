"""The sharded step that ends the stages with a detector: from each image to its part of a COCO results file."""

from __future__ import annotations

from collections.abc import Sequence

from weaksam_cli.artifacts.schemas import DETECTIONS
from weaksam_cli.data.detections import render_batches
from weaksam_cli.data.labels import Labels
from weaksam_cli.engine.execution import Predictor as Work
from weaksam_cli.engine.legacy import SHARD_IMAGES, ShardedMaker


def detections_maker(
    labels: Labels,
    image_ids: Sequence[str],
    work: Work,
    *,
    device: str = "cpu",
    shard_images: int = SHARD_IMAGES,
) -> ShardedMaker:
    """What makes the results file of a split.

    Args:
        labels: of the split.
        image_ids: images that are looked at, in order.
        work: from an image to the rows of `detections_to_rows`.
        device, shard_images: see `ShardedMaker`.
    """
    return ShardedMaker(
        DETECTIONS,
        image_ids,
        work,
        "detecting",
        render=lambda batches: render_batches(batches, labels),
        shard_images=shard_images,
        device=device,
    )
