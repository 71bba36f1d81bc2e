from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from weaksam_cli.errors import UserError
from weaksam_cli.propose import torch_segmenter
from weaksam_cli.propose.torch_segmenter import Batches, by_length, choose_dtype


class Device:
    """A device on which no more than `room` prompts fit."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []
        self.done: list[int] = []

    def __call__(self, batch: slice) -> None:
        self.tried.append(batch.stop - batch.start)
        if self.tried[-1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.done += range(batch.start, batch.stop)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 64, 65])
@pytest.mark.parametrize("room", [1, 3, 10, 64])
def test_batches_are_halved_until_they_fit(count: int, room: int) -> None:
    device, batches = Device(room), Batches(64)
    batches.run(count, device)
    assert device.done == list(range(count))
    assert batches.size == 64 if count <= room else batches.size <= room
    failures = [size for size in device.tried if size > room]
    assert len(failures) <= 6, "a size that did not fit is not tried again"
    device.tried.clear()
    batches.run(count, device)
    assert all(size <= room for size in device.tried)


def test_a_prompt_that_does_not_fit_is_said() -> None:
    device = Device(0)
    with pytest.raises(UserError, match="not enough memory to decode a single prompt"):
        Batches(4).run(3, device)
    assert device.tried == [3, 1]


def test_other_errors_pass() -> None:
    def broken(_: slice) -> None:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        Batches(4).run(3, broken)


def test_prompts_of_equal_length_come_together() -> None:
    xy = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    labels = np.asarray([[1, -1, -1], [1, -1, 0], [-1, 1, -1], [1, 1, 1]], np.int8)
    found = [
        (rows.tolist(), points.tolist(), kinds.tolist()) for rows, points, kinds in by_length(xy, labels)
    ]
    assert found == [
        ([0, 2], [[[0, 1]], [[14, 15]]], [[1], [1]]),
        ([1], [[[6, 7], [10, 11]]], [[1, 0]]),
        ([3], [[[18, 19], [20, 21], [22, 23]]], [[1, 1, 1]]),
    ]
    assert list(by_length(xy[:0], labels[:0])) == []


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("asked", "device", "native", "chosen"),
    [
        ("float32", "cpu", False, F32),
        ("auto", "cpu", True, F32),
        ("bfloat16", "cpu", True, BF16),
        ("bfloat16", "cpu", False, None),
        ("float16", "cpu", True, None),
        ("float32", "cuda", False, F32),
        ("auto", "cuda:1", True, BF16),
        ("auto", "cuda", False, F16),
        ("bfloat16", "cuda", False, BF16),
        ("float16", "cuda", True, F16),
    ],
)
def test_the_format_fits_the_device(
    monkeypatch: pytest.MonkeyPatch, asked: Any, device: str, native: bool, chosen: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch_segmenter, "cpu_has_bfloat16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    if chosen is None:
        with pytest.raises(UserError, match="emulate"):
            choose_dtype(asked, device)
    else:
        assert choose_dtype(asked, device) is chosen
