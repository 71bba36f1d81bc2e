"""Which boxes does adaptive pseudo ground truth add to top-1, and would another score tell the right ones better?

    python benchmarks/pgt_added.py runs/gate/gate-200-0 runs/gate/gate-200-1 ...

From the WSOD detections of each run's training split, with the recipes' settings. A box is of one of four kinds: a
`new object` that no pseudo box before it found (IoU .5 with an object of its class), an object found `again`, a `part` or a
surrounding (IoU .1 or more), or `elsewhere`. Then, over the boxes that could be added (each class's detections of an image
but the first), the area under the ROC curve of three scores as a sign of a new object.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from weaksam_cli.core.boxes import FloatArray, iou
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.pgt import adaptive, top1

KINDS = ("new object", "again", "part", "elsewhere")
ALONE, SEVERAL, DROPPED = "one object", "several objects", "top-1 that adaptive drops"
HIT, TOUCH = 0.5, 0.1


@dataclass
class Seen:
    """Of a class in a run: `counts` of kinds, best scores of its images; score, ratio to it, new of the others."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    best: list[float] = field(default_factory=list)
    rest: list[tuple[float, float, bool]] = field(default_factory=list)

    def calibrated(self) -> list[tuple[float, float, float, bool]]:
        """The others with their score over the mean of the best."""
        return [(score, ratio, score / float(np.mean(self.best)), new) for score, ratio, new in self.rest]


def kinds(boxes: FloatArray, objects: FloatArray, first: FloatArray) -> list[str]:
    """What each of `boxes` (n, 4), best first, is, where `first` (m, 4) were there before; all of one image and class."""
    if not len(objects):
        return [KINDS[-1]] * len(boxes)
    claimed = {int(row.argmax()) for row in iou(first, objects) if row.max() >= HIT}
    named = []
    for row in iou(boxes, objects):
        best, overlap = int(row.argmax()), row.max()
        found = KINDS[1] if best in claimed else KINDS[0]
        named.append(found if overlap >= HIT else KINDS[2] if overlap >= TOUCH else KINDS[3])
        if overlap >= HIT:
            claimed.add(best)
    return named


def own(found: Detections, index: int) -> Detections:
    """The detections of a class, best first."""
    rows = np.flatnonzero(found.class_index == index)
    return found.take(rows[np.argsort(-found.scores[rows], kind="stable")])


def look_at_class(found: Detections, objects: GroundTruth, index: int, seen: Seen) -> None:
    """Add what top-1 and adaptive make of the detections of one image and class."""
    every = own(found, index)
    first, kept = (module.select(every, [index], module.Recipe()).boxes for module in (top1, adaptive))
    true = objects.boxes[(objects.class_index == index) & ~objects.difficult]
    crowd = ALONE if len(true) == 1 else SEVERAL
    added = kept[~(kept[:, None] == first[None]).all(axis=2).any(axis=1)]
    seen.counts.update((f"top-1: {kind}", crowd) for kind in kinds(first, true, first[:0]))
    seen.counts.update((f"added: {kind}", crowd) for kind in kinds(added, true, first))
    seen.counts[(DROPPED, crowd)] += len(first) - (len(kept) - len(added))
    seen.best += every.scores[:1].tolist()
    new = [kind == KINDS[0] for kind in kinds(every.boxes[1:], true, first)]
    ratio = every.scores[1:] / max(every.scores[:1].sum(), 1e-12)
    seen.rest += zip(every.scores[1:].tolist(), ratio.tolist(), new, strict=True)


def look(root: Path) -> list[Seen]:
    """What is seen in a run, by class."""
    run, source = RunDirectory(root), read_source(root)
    (split,) = source.role_names("train")
    labels = read_labels(run.output("data", split), Path())
    truth = read_ground_truth(root, source, labels)
    assert truth is not None, f"{root}: no boxes to compare with"
    found = read_detections(run.output("wsod", split), labels)
    seen = [Seen() for _ in labels.class_names]
    for image in labels.file.images:
        for index in labels.class_indexes(image):
            look_at_class(found[image.key], truth.images[image.key].objects, index, seen[index])
    return seen


def main(roots: list[Path]) -> None:
    seen = [item for root in roots for item in look(root)]
    counts = Counter[tuple[str, str]]()
    for item in seen:
        counts.update(item.counts)
    for name in (*(f"{of}: {kind}" for of in ("top-1", "added") for kind in KINDS), DROPPED):
        sys.stdout.write(f"| {name} | {counts[name, ALONE]} | {counts[name, SEVERAL]} |\n")
    rows = np.array([row for item in seen for row in item.calibrated()])
    new = rows[:, 3] > 0
    for column, name in enumerate(("score", "over the image's best", "over the class's mean best")):
        best = np.argsort(-rows[:, column])[:200]
        area = roc_auc_score(new, rows[:, column])
        sys.stdout.write(f"| {name} | {area:.3f} | {new[best].sum()} of the first {len(best)} |\n")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
