"""From which score on a detector is believed: chosen by image-level labels alone, without any box.

A class counts as found in an image when a detection of it reaches the threshold; that of the best F1 against the labels of
a split of the run is taken, if there is one that the detector did not learn from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from weaksam_cli.artifacts.receipt import Receipt
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.json_files import read_json
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.predict.trained import Trained

WITHOUT_LABELS: Final = 0.5
"""The threshold of a detector of which no labelled detections are at hand, as detectron2's demo has it."""
STAGE: Final = Stage("predict", 1, "predict", "", Schema("weaksam/threshold", 1, ()))


class Threshold(BaseModel):
    """From which score on detections are believed.

    Attributes:
        score: the least one.
        share: of the best score of its class in the image that a box has at least: where a class is shown, the labels
            say nothing of how many of its boxes are right. 0 where a person chose the score.
        f1: agreement with the image-level labels of `split`; None where there was nothing to agree with.
        split: of the run.
        images: of that split with known labels.
    """

    model_config = ConfigDict(frozen=True, strict=True)
    score: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    f1: float | None = None
    split: str | None = None
    images: int = 0

    def believes(self, found: Detections) -> NDArray[np.bool_]:
        """Which boxes of one image are believed, bool (n,)."""
        best = found.best_scores(int(found.class_index.max(initial=0)) + 1)[found.class_index]
        sure: NDArray[np.bool_] = found.scores >= np.maximum(np.float32(self.score), self.share * best)
        return sure

    def reason(self) -> str:
        """Why this one, in words."""
        if self.f1 is None:
            return (
                "a usual one; no labelled detections of this detector are at hand"
                if self.share
                else "as asked"
            )
        return f"the best agreement with the image-level labels of split {self.split}, F1 {self.f1:.2f}"


_THRESHOLD: Final = TypeAdapter(Threshold)


def threshold_of(trained: Trained, context: Context, *, keep: bool = True) -> Threshold:
    """The threshold of a detector, computed once and kept beside its model, unless nothing is to be written.

    Raises:
        UserError: detections or labels of the run are damaged.
    """
    for split, detections, _ in trained.detections():
        assert trained.run is not None
        labels = trained.run.input("data", split)
        if not read_labels(labels, Path()).are_known:
            continue
        if not keep:
            return _best(split, labels, detections)
        name = "threshold-both.json" if trained.use == "both" else "threshold.json"
        target = trained.model.with_name(name)
        run = partial(_write_best, split, labels, detections)
        inputs = {"data": labels, f"{trained.use}-detections": detections}
        step = Step(target, STAGE.schema, split, RecipeModel(), inputs, run, "threshold", summary=_summary)
        context = replace(
            context, dataset=trained.dataset, run=trained.run, allow_stale=True, unlabelled=None, part=None
        )
        try:
            make(step, STAGE, context)
        except OSError:  # a run that cannot be written to
            return _best(split, labels, detections)
        return read_json(target, _THRESHOLD, remedy="Remove it, and it is computed again")
    return Threshold(score=WITHOUT_LABELS)


def _write_best(split: str, labels: Path, detections: Path, job: Job) -> Outcome:
    found = _best(split, labels, detections)
    job.context.ops.write_atomically(job.path, found.model_dump_json(indent=1).encode() + b"\n")
    return Outcome(found.images)


def _summary(record: Receipt, _: Outcome) -> tuple[str, dict[str, Any]]:
    return f"chosen on the labels of {record.images} images", {}


def _best(split: str, labels: Path, detections: Path) -> Threshold:
    read = read_labels(labels, Path())
    found, n_classes = read_detections(detections, read), len(read.class_names)
    known = read.known_classes()
    scores = np.concatenate([found[key].best_scores(n_classes) for key in known])
    score, f1 = best_f1(scores, np.concatenate([*known.values()]))
    return Threshold(score=score, f1=f1, split=split, images=len(known))


def best_f1(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold at which `scores >= threshold` agrees best with `truth`, half way to the next lower score, and its F1.

    Args:
        scores: float32 (n,), 0 or more; 0 counts as not found.
        truth: bool (n,).
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(truth[order])
    ends = np.flatnonzero((ranked > np.append(ranked[1:], 0.0)) & (ranked > 0))
    if not len(ends):
        return WITHOUT_LABELS, 0.0
    f1 = 2 * hits[ends] / (ends + 1 + truth.sum())
    best = int(np.argmax(f1))
    lower = np.append(ranked, 0.0)[ends[best] + 1]
    return float((ranked[ends[best]] + lower) / 2), float(f1[best])
