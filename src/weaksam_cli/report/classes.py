"""The classes of a run in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from weaksam_cli.core.types import Detections
from weaksam_cli.report import choose
from weaksam_cli.report.collect import Run, SplitRun


@dataclass(frozen=True)
class ClassRow:
    """A class in numbers; `ap` has an entry for each of `evaluated`."""

    name: str
    index: int
    images: int
    pseudo: int
    detections: int
    best: float | None
    ap: list[float | None]


def boxes_an_image(run: Run) -> float:
    """How many detections an image are looked at, see `choose.boxes_an_image`."""
    train = run.split_of_role("train")
    return choose.boxes_an_image(train.boxes.get("pgt"), train.labels) if train else 2.0


def detectors(split: SplitRun | None) -> list[str]:
    """The artifacts with detections, in the order of the pipeline."""
    return [name for name in split.boxes if not name.startswith("pgt")] if split else []


def evaluated(split: SplitRun | None) -> list[str]:
    """Those of `detectors` whose average precision is known."""
    return [name for name in detectors(split) if split is not None and split.results.of(name, "VOC AP50")]


def class_rows(train: SplitRun | None, last: SplitRun | None, most: float) -> list[ClassRow]:
    """The classes that anything is known of.

    Args:
        train: whose images and pseudo boxes are counted.
        last: whose detections are, the best `most` an image on average.
    """
    if train is None or last is None:
        return []
    names = train.labels.class_names
    images = np.zeros(len(names), int)
    for image in train.labels.file.images:
        images[train.labels.class_indexes(image)] += 1
    pseudo = _counts(train.boxes.get("pgt"), len(names))
    final = last.boxes.get(last.final)
    detections = _counts(choose.shown(final, most) if final else None, len(names))
    rows = [last.results.of(name, "VOC AP50") for name in evaluated(last)]
    best = _best_scores(final, len(names))
    return [
        ClassRow(
            name, index, int(images[index]), int(pseudo[index]), int(detections[index]), best[index],
            [row.classes.get(name) if row else None for row in rows],
        )
        for index, name in enumerate(names)
        if images[index] or detections[index] or pseudo[index]
    ]  # fmt: skip


def _counts(every: Mapping[str, Detections] | None, n_classes: int) -> np.ndarray:
    parts = [np.zeros(0, np.int32), *(item.class_index for item in (every or {}).values())]
    return np.bincount(np.concatenate(parts), minlength=n_classes)


def _best_scores(every: Mapping[str, Detections] | None, n_classes: int) -> list[float | None]:
    """For each class the mean over images of its best score, of the images where there is one of it."""
    best = np.stack([np.zeros(n_classes), *(item.best_scores(n_classes) for item in (every or {}).values())])
    sums, counts = best.sum(axis=0), (best > 0).sum(axis=0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
