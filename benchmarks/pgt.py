"""Adaptive and top-1 pseudo ground truth of a data set of VOC07's size: 5,011 images, 100 detections each, 20 classes.

Run: python benchmarks/pgt.py
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.pgt.adaptive import adaptive_rows
from weaksam_cli.pgt.table import DetectionTable
from weaksam_cli.pgt.top1 import top_k

IMAGES, DETECTIONS, CLASSES = 5011, 100, 20


def detections(rng: np.random.Generator, class_index: NDArray[np.int32]) -> DetectionTable:
    """Random boxes in images of 500 x 375 pixels; scores with the long low tail of a detector."""
    n = IMAGES * DETECTIONS
    corners = np.sort(rng.random((n, 2, 2)), axis=1) * [500, 375]
    return DetectionTable(
        corners.reshape(n, 4).astype(np.float32),
        np.repeat(np.arange(IMAGES), DETECTIONS),
        class_index,
        rng.random(n) ** 4,
    )


def select(table: DetectionTable, labels: NDArray[np.bool_], **settings: Any) -> DetectionTable:
    """The pseudo boxes as the stage takes them."""
    return table.take(adaptive_rows(table, labels, **settings)[0])


def measure(name: str, select: Callable[[], DetectionTable]) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        selected = select()
        times.append(time.perf_counter() - start)
    sys.stdout.write(f"{name:58s} {np.median(times):6.3f} s {len(selected):9,d} pseudo boxes\n")


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((IMAGES, CLASSES)) < 1.5 / CLASSES
    labels[np.arange(IMAGES), rng.integers(0, CLASSES, IMAGES)] = True
    mixed = detections(rng, rng.integers(0, CLASSES, IMAGES * DETECTIONS).astype(np.int32))
    # The costly case: all detections of an image share one labelled class, and every score passes.
    single = detections(rng, np.repeat(labels.argmax(axis=1), DETECTIONS).astype(np.int32))
    everything = np.ones_like(labels)
    measure("20 classes, image-level labels, adaptive", partial(select, mixed, labels))
    measure("20 classes, every class labelled, adaptive", partial(select, mixed, everything))
    measure("one class an image, adaptive", partial(select, single, labels))
    measure(
        "one class an image, adaptive, all scores pass", partial(select, single, labels, score_threshold=0)
    )
    measure(
        "one class an image, all scores pass, keep_best",
        partial(select, single, labels, score_threshold=0, mutual="keep_best"),
    )
    measure("20 classes, image-level labels, top-1", partial(top_k, mixed, labels))


if __name__ == "__main__":
    main()
