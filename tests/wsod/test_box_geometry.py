from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from weaksam_cli.core.boxes import inclusive_to_edges
from weaksam_cli.wsod.box_geometry import decode, encode, pairwise_iou

number = st.integers(0, 60)
box = st.tuples(number, number, st.integers(1, 60), st.integers(1, 60)).map(
    lambda corner: [corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]]
)
boxes = st.lists(box, min_size=1, max_size=8).map(lambda rows: torch.tensor(rows, dtype=torch.float32))


def edges(inclusive: Any) -> torch.Tensor:
    return torch.from_numpy(inclusive_to_edges(np.asarray(inclusive, np.float32)))


def test_encode_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["box_coder"]["encode"]
    expected = torch.tensor(case["out"])
    gt, proposals = (torch.tensor(case[name], dtype=torch.float32) for name in ("gt", "proposals"))
    torch.testing.assert_close(encode(gt, proposals, plus_one=True), expected)
    torch.testing.assert_close(encode(edges(case["gt"]), edges(case["proposals"])), expected)


def test_decode_as_published(oracle: Any) -> None:
    case = oracle("mist_wetectron")["box_coder"]["decode"]
    codes, expected = torch.tensor(case["codes"]), torch.tensor(case["out"])
    proposals = torch.tensor(case["proposals"], dtype=torch.float32)
    torch.testing.assert_close(decode(codes, proposals, plus_one=True), expected)
    on_edges = decode(codes, edges(case["proposals"])) - torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(on_edges, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=8), st.booleans())
def test_decode_undoes_encode(pairs: list[Any], plus_one: bool) -> None:
    targets = torch.tensor([pair[0] for pair in pairs], dtype=torch.float32)
    proposals = torch.tensor([pair[1] for pair in pairs], dtype=torch.float32)
    deltas = encode(targets, proposals, plus_one=plus_one)
    torch.testing.assert_close(decode(deltas, proposals, plus_one=plus_one), targets, atol=1e-3, rtol=1e-4)


def test_decode_many_classes_and_none() -> None:
    proposals = torch.tensor([[0.0, 0, 10, 10], [5, 5, 9, 30]])
    deltas = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    decoded = decode(deltas, proposals)
    for index in range(3):
        part = slice(4 * index, 4 * index + 4)
        torch.testing.assert_close(decoded[:, part], decode(deltas[:, part], proposals))
    assert decode(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
    assert encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


@settings(max_examples=60, deadline=None)
@given(boxes, boxes)
def test_iou_agrees_with_torchvision(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))
    torch.testing.assert_close(
        pairwise_iou(a, b, plus_one=True),
        box_iou(a + torch.tensor([0, 0, 1, 1]), b + torch.tensor([0, 0, 1, 1])),
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 2), (2, 0), (1, 1)])
def test_iou_of_few(n: int, m: int) -> None:
    assert pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).tolist() == torch.zeros(n, m).tolist()


def test_plus_one_iou_as_published(oracle: Any) -> None:
    case = oracle("proposals")["bbox_overlaps_plus1"]
    a, b = (torch.tensor(case[name]) for name in ("boxes1", "boxes2"))
    torch.testing.assert_close(pairwise_iou(a, b, plus_one=True), torch.tensor(case["iou"]))
    torch.testing.assert_close(pairwise_iou(edges(a), edges(b)), torch.tensor(case["iou"]))
