"""The weakly supervised and the retrained detector together.

They err differently: one looks at class maps and regions of the whole image, the other learnt where objects end. A box that
both find keeps the sum of what they say, so it comes before one that a single detector is sure of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.core.boxes import iou, nms
from weaksam_cli.core.settings import RecipeModel, Weight
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import RESULTS, read_detections
from weaksam_cli.data.labels import Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.detectors import Detector, per_image_detections
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step

_Share = Annotated[float, Field(ge=0, le=1)]


class Fusion(RecipeModel):
    """How the boxes of an image that two detectors found become one list.

    Attributes:
        wsod_weight: of the weakly supervised detector's scores, against 1 for the retrained one's.
        overlap: boxes of a class whose IoU is above it speak for each other.
        nms: IoU above which the lower of two boxes of a class is suppressed.
    """

    wsod_weight: Weight = 2.0
    overlap: _Share = 0.5
    nms: _Share = 0.4


class BothSettings(RecipeModel):
    """Whether both detectors are also used together.

    Attributes:
        both: how; null leaves it out, as for detectors of masks and for the published system.
    """

    both: Fusion | None = None


def fuse(wsod: Detections, retrained: Detections, fusion: Fusion) -> Detections:
    """One list of boxes, best first.

    The score of a box is its detector's own, weighted, and of the other detector's boxes that overlap it the largest product
    of score and IoU; all divided by the sum of the weights, so that scores in [0, 1] stay there.
    """
    parts = [
        _fuse_class(
            wsod.take(wsod.class_index == index), retrained.take(retrained.class_index == index), fusion
        )
        for index in np.union1d(wsod.class_index, retrained.class_index)
    ]
    found = Detections.concatenate(parts)
    return found.take(np.argsort(-found.scores, kind="stable"))


def _fuse_class(wsod: Detections, retrained: Detections, fusion: Fusion) -> Detections:
    first, second = wsod.scores * np.float32(fusion.wsod_weight), retrained.scores
    overlap = iou(wsod.boxes, retrained.boxes)
    overlap = np.where(overlap > fusion.overlap, overlap, np.float32(0))
    support = (overlap * second).max(axis=1, initial=0), (overlap * first[:, None]).max(axis=0, initial=0)
    scores = np.concatenate([first + support[0], second + support[1]]) / np.float32(1 + fusion.wsod_weight)
    found = replace(Detections.concatenate([wsod, retrained]), scores=scores.astype(np.float32), masks=None)
    return found.take(nms(found.boxes, found.scores, fusion.nms))


@dataclass(frozen=True)
class FusedDetector:
    """Both detectors on one image after the other."""

    wsod: Detector
    retrained: Detector
    fusion: Fusion

    def open(self) -> Callable[[str], Detections]:
        """Open both, once a process."""
        wsod, retrained = self.wsod.open(), self.retrained.open()
        return lambda key: fuse(wsod(key), retrained(key), self.fusion)


@dataclass(frozen=True)
class _Stored:
    """What a detector found, from its file."""

    path: Path
    split: Split

    def open(self) -> Callable[[str], Detections]:
        return read_detections(self.path, self.split.read()).__getitem__


def both_output(run: RunDirectory, split: str) -> Path:
    """Where the detections of both lie: beside those of the retrained detector."""
    return run.folder("retrain") / "both" / f"{split}.json"


def both_step(settings: BothSettings, retrained: Path, context: Context, split: str) -> Step | None:
    """The detections of both on a split.

    Args:
        settings: of the recipe.
        retrained: detections of the retrained detector, which are made by then.
        context: of the command.
        split: of the dataset.

    Returns:
        None where the recipe leaves them apart, or the run has no detections of WSOD.
    """
    fusion, wsod = settings.both, context.run.input("wsod", split)
    if fusion is None or read_receipt(wsod) is None:
        return None

    def work(context: Context) -> PerImage:
        images = context.split(split)
        detector = FusedDetector(_Stored(wsod, images), _Stored(retrained, images), fusion)
        return per_image_detections(images, images.read().keys, detector)

    return Step(
        path=both_output(context.run, split),
        schema=RESULTS,
        split=split,
        settings=settings,
        inputs={"wsod": wsod, "retrain": retrained, "data": context.run.input("data", split)},
        run=ImageByImage(work),
        title="detections of both detectors",
    )
