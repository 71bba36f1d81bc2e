"""Adaptive and top-1 pseudo ground truth of a data set of VOC07's size: 5,011 images, 100 detections each, 20 classes.

Run: python benchmarks/pgt.py
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.pgt import adaptive, top1

IMAGES, DETECTIONS, CLASSES = 5011, 100, 20
Images = list[tuple[Detections, Collection[int]]]


def sample(rng: np.random.Generator, *, one_class: bool) -> Images:
    """Random boxes in images of 500 x 375 pixels; scores with the long low tail of a detector."""
    images: Images = []
    for _ in range(IMAGES):
        labels = np.flatnonzero(rng.random(CLASSES) < 1.5 / CLASSES)
        labels = labels if len(labels) else rng.integers(0, CLASSES, 1)
        corners = np.sort(rng.random((DETECTIONS, 2, 2)), axis=1) * [500, 375]
        classes = np.full(DETECTIONS, labels[0]) if one_class else rng.integers(0, CLASSES, DETECTIONS)
        found = Detections(
            corners.reshape(DETECTIONS, 4).astype(np.float32),
            classes.astype(np.int32),
            (rng.random(DETECTIONS) ** 4).astype(np.float32),
        )
        images.append((found, labels.tolist()))
    return images


def measure(name: str, images: Images, select: Callable[..., Detections], recipe: RecipeModel) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        boxes = sum(len(select(found, labels, recipe)) for found, labels in images)
        times.append(time.perf_counter() - start)
    sys.stdout.write(f"{name:50s} {np.median(times):6.3f} s {boxes:9,d} pseudo boxes\n")


def main() -> None:
    rng = np.random.default_rng(0)
    mixed = sample(rng, one_class=False)
    # The costly case: all detections of an image share one labelled class, and every score passes.
    single = sample(rng, one_class=True)
    everything = adaptive.Recipe(score_threshold=0)
    best = adaptive.Recipe(score_threshold=0, mutual="keep_best")
    measure("20 classes, adaptive", mixed, adaptive.select, adaptive.Recipe())
    measure("one class an image, adaptive", single, adaptive.select, adaptive.Recipe())
    measure("one class an image, adaptive, all scores pass", single, adaptive.select, everything)
    measure("one class an image, all scores pass, keep_best", single, adaptive.select, best)
    measure("20 classes, top-1", mixed, top1.select, top1.Recipe())


if __name__ == "__main__":
    main()
