from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch import Tensor

from weaksam_cli.core.boxes import inclusive_to_edges
from weaksam_cli.propose.mask_logits import (
    STABILITY_OFFSET,
    MaskMeasures,
    MaskUpsampling,
    Window,
    bilinear_matrix,
    measure_masks,
)

CPU = torch.device("cpu")
LOW, NETWORK = 16, 64
SIZES = [(48, 64), (64, 48), (1, 1), (1, 90), (7, 300), (301, 5), (64, 64), (640, 481)]


def as_published(low: Tensor, kept: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Logits (m, h, w) at the image's size by the two resizes that SAM makes."""
    if not len(low):
        return torch.zeros(0, *size)
    network = F.interpolate(low[None], (NETWORK, NETWORK), mode="bilinear", align_corners=False)
    cut = network[..., : kept[0], : kept[1]]
    return F.interpolate(cut, size, mode="bilinear", align_corners=False)[0]


def kept_of(size: tuple[int, int]) -> tuple[int, int]:
    scale = NETWORK / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def upsampling_of(size: tuple[int, int]) -> MaskUpsampling:
    return MaskUpsampling((LOW, LOW), NETWORK, kept_of(size), size, CPU)


def random_logits(count: int, seed: int) -> Tensor:
    return torch.randn(count, LOW, LOW, generator=torch.Generator().manual_seed(seed)) * 2 - 0.5


def measure_logits(logits: Tensor, threshold: float = 0.0) -> MaskMeasures:
    """Of logits (m, H, W) that are at the image's size already: padded to a square, upsampling leaves them as they are."""
    side, size = max(logits.shape[1:]), (logits.shape[1], logits.shape[2])
    square = F.pad(logits, (0, side - size[1], 0, side - size[0]), value=-1000.0)
    return measure_masks(square, MaskUpsampling((side, side), side, size, size, CPU), 1 << 20, threshold)


def whole(size: tuple[int, int]) -> Window:
    return Window(slice(0, size[0]), slice(0, size[1]))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pixels", [1, 1000, 1 << 20])
def test_one_step_is_the_published_two(size: tuple[int, int], pixels: int) -> None:
    low = random_logits(3, sum(size))
    bands = list(upsampling_of(size).bands(low, whole(size), pixels))
    assert [rows.start for rows, _ in bands[1:]] == [rows.stop for rows, _ in bands[:-1]]
    found = torch.cat([logits for _, logits in bands], dim=1)
    torch.testing.assert_close(found, as_published(low, kept_of(size), size), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "target"), [(1, 1), (1, 7), (7, 1), (6, 6), (2, 64), (64, 2), (5, 1000)])
def test_bilinear_matrix_is_torch_s_resize(size: int, target: int) -> None:
    values = torch.randn(1, 1, size, 1, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values, (target, 1), mode="bilinear", align_corners=False).flatten().numpy()
    np.testing.assert_allclose(bilinear_matrix(size, target) @ values.flatten().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(bilinear_matrix(size, target).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("pixels", [50, 1 << 16])
def test_measures_are_those_of_the_whole_masks(size: tuple[int, int], count: int, pixels: int) -> None:
    low = random_logits(count, count)
    low[1:2] = -7  # a mask without a pixel
    expected = measure_logits(as_published(low, kept_of(size), size))
    found = measure_masks(low, upsampling_of(size), pixels, 0.0)
    np.testing.assert_array_equal(found.boxes.numpy(), expected.boxes.numpy())
    np.testing.assert_array_equal(found.area.numpy(), expected.area.numpy())
    torch.testing.assert_close(found.stability, expected.stability, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    blob=st.tuples(*[st.integers(0, LOW - 1)] * 4),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 3.0]),
)
def test_nothing_is_above_the_threshold_outside_of_the_window(
    size: tuple[int, int], blob: tuple[int, int, int, int], threshold: float
) -> None:
    top, left, height, width = blob
    low = torch.full((1, LOW, LOW), -5.0)
    low[0, top : top + height, left : left + width] = 4.0
    dense = as_published(low, kept_of(size), size)[0] > threshold
    window = upsampling_of(size).window_above(low, threshold)
    dense[window.rows, window.columns] = False
    assert not dense.any()


def test_small_masks_cost_little() -> None:
    low = torch.full((1, LOW, LOW), -5.0)
    low[0, 3:5, 4:6] = 5.0
    height, width = upsampling_of((480, 640)).window_above(low, 0.0).shape
    assert 0 < height < 480 / 3 and 0 < width < 640 / 3


@pytest.mark.parametrize("size", [(48, 64), (480, 640), (1200, 1600)], ids=str)
def test_no_more_logits_at_once_than_allowed_whatever_the_image(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    bands = MaskUpsampling.bands

    def watched(self: MaskUpsampling, low: Tensor, window: Window, pixels: int) -> Iterator[Any]:
        nonlocal largest
        for rows, logits in bands(self, low, window, pixels):
            largest = max(largest, logits.numel())
            yield rows, logits

    monkeypatch.setattr(MaskUpsampling, "bands", watched)
    found = measure_masks(random_logits(2, 1), upsampling_of(size), 20_000, 0.0)
    assert (found.area > 0).all()
    assert 0 < largest <= 20_000


def edges_unless_empty(inclusive: Any, masks: Any) -> Any:
    edges = inclusive_to_edges(np.asarray(inclusive, np.float32))
    edges[~np.asarray(masks, bool).any(axis=(1, 2))] = 0
    return edges


def test_boxes_of_the_published_masks(oracle: Any) -> None:
    case = oracle("proposals")["mask_to_box"]
    masks = torch.tensor(case["masks"], dtype=torch.bool)
    found = measure_logits(masks.float() - 0.5).boxes.numpy()
    np.testing.assert_array_equal(found, edges_unless_empty(case["boxes_xyxy_inclusive"], case["masks"]))
    filled = masks.flatten(1).any(1).numpy()
    sides = found[filled, 2:] - found[filled, :2] - 1
    np.testing.assert_array_equal(sides, np.asarray(case["xywh"])[filled, 2:])


def test_stability_of_the_published_logits(oracle: Any) -> None:
    case = oracle("proposals")["stability"]
    logits = torch.tensor(case["logits"])
    assert case["offset"] == STABILITY_OFFSET
    found = measure_logits(logits, threshold=case["mask_threshold"]).stability
    assert found[0] == case["score"][0]
    assert torch.isnan(found[1])


def test_cuts_are_strict() -> None:
    logits = torch.tensor([[[1.0, 1.5, 0.0, -1.0, -0.5]]])
    found = measure_logits(logits)
    assert float(found.stability[0]) == pytest.approx(1 / 4)
    assert int(found.area[0]) == 2 and found.boxes.tolist() == [[0, 0, 2, 1]]


@pytest.mark.parametrize("shape", [(0, 4, 5), (1, 1, 1), (6, 3, 7), (7, 9, 2)])
def test_agrees_with_the_package(shape: tuple[int, int, int]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1
    found = measure_logits(logits)
    masks = logits > 0
    expected = edges_unless_empty(batched_mask_to_box(masks).numpy(), masks.numpy())
    np.testing.assert_array_equal(found.boxes.numpy(), expected)
    torch.testing.assert_close(found.stability, calculate_stability_score(logits, 0.0, 1.0), equal_nan=True)
    assert found.area.dtype == torch.int64


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9))))
def test_boxes_are_tight(masks: Any) -> None:
    boxes = measure_logits(torch.from_numpy(masks).float() - 0.5).boxes
    for box, mask in zip(boxes.tolist(), masks, strict=True):
        rows, columns = np.nonzero(mask)
        expected = (
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        )
        assert box == expected
