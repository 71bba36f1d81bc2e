"""Running maximum over a square window, the costly step of the peak search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def odd_window(window: int) -> int:
    """The window that is used for a side of `window` pixels: an even side grows by one.

    The paper's supplement (§7) states 128, with which the published code fails; its scripts use 129.

    Raises:
        ValueError: for a side below one pixel.
    """
    if window < 1:
        raise ValueError(f"window: expected a side of at least 1 pixel, got {window}")
    return window if window % 2 else window + 1


def maximum_filter(heat: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Largest value of the `window` x `window` pixels around every pixel; outside the map lies minus infinity.

    Identical to torch's `max_pool2d(heat, window, stride=1, padding=(window - 1) // 2)`. A square window is
    separable, and along an axis the window is covered by two of half its side or more, which are made by doubling:
    log2(window) passes over memory, the fastest of the exact forms that were measured at side 129
    (`benchmarks/maximum_filter.py`).

    Args:
        heat: float32 (H, W).
        window: odd side in pixels; it may be larger than the map.

    Returns:
        float32 (H, W).

    Raises:
        ValueError: for an even or non-positive window, or a map that is not two-dimensional.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window: expected an odd side, got {window}")
    if heat.ndim != 2:
        raise ValueError(f"heat: expected shape (H, W), got {heat.shape}")
    if heat.size == 0:
        return heat.copy()
    # Rows lie side by side in memory, so columns are filtered as the rows of the transposed map.
    columns = np.ascontiguousarray(_filter_rows(heat, window).T)
    return np.ascontiguousarray(_filter_rows(columns, window).T)


def _filter_rows(heat: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Running maximum along the first axis."""
    height = len(heat)
    # A window that reaches past the whole map sees nothing more than one that just covers it.
    window = min(window, 2 * height - 1)
    reach = np.full((height + window - 1, heat.shape[1]), -np.inf, dtype=np.float32)
    reach[window // 2 : window // 2 + height] = heat
    side = 1
    while 2 * side <= window:
        reach = np.maximum(reach[:-side], reach[side:])
        side *= 2
    last = window - side
    return np.maximum(reach[:height], reach[last : last + height])
