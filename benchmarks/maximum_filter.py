"""Running maximum of the peak search against torch's max pooling: window 129, 500 x 375 pixels, one thread.

Run: python benchmarks/maximum_filter.py
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from weaksam_cli.prompt.maximum_filter import maximum_filter
from weaksam_cli.prompt.peaks import find_peaks

Heat = NDArray[np.float32]


def max_pool2d(heat: Heat, window: int) -> Heat:
    stacked = torch.from_numpy(heat)[None, None]
    pooled = torch.nn.functional.max_pool2d(stacked, window, stride=1, padding=(window - 1) // 2)
    return pooled[0, 0].numpy()


def scipy_filter(heat: Heat, window: int) -> Heat:
    rows = maximum_filter1d(heat, window, axis=0, mode="constant", cval=-np.inf)
    return np.asarray(maximum_filter1d(rows, window, axis=1, mode="constant", cval=-np.inf))


def dilation(heat: Heat, window: int) -> Heat:
    rectangle = np.ones((window, window), dtype=np.uint8)
    dilated = cv2.dilate(heat, rectangle, borderType=cv2.BORDER_CONSTANT, borderValue=-np.inf)
    return np.asarray(dilated, dtype=np.float32)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def compare(heat: Heat, window: int) -> None:
    expected = max_pool2d(heat, window)
    pooling = seconds(partial(max_pool2d, heat, window), repeats=3)
    say(f"window {window}, 500 x 375 pixels, one thread: torch max_pool2d {pooling * 1e3:.1f} ms")
    for name, function in (
        ("maximum_filter (numpy, doubling)", maximum_filter),
        ("cv2.dilate", dilation),
        ("scipy maximum_filter1d, twice", scipy_filter),
    ):
        if not np.array_equal(function(heat, window), expected):
            raise AssertionError(f"{name} differs from max_pool2d")
        taken = seconds(partial(function, heat, window), repeats=31)
        say(f"  {name:34s} {taken * 1e3:7.2f} ms {pooling / taken:7.0f} times faster, identical")
    whole = seconds(partial(find_peaks, heat, window=window), repeats=31)
    say(f"  {'find_peaks as a whole':34s} {whole * 1e3:7.2f} ms")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    heat = np.random.default_rng(0).random((375, 500), dtype=np.float32)
    for window in (17, 129):
        compare(heat, window)


if __name__ == "__main__":
    main()
