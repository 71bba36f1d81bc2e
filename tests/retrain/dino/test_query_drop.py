"""Query drop against the oracle, part by part (spec 06 B.3, B.4), and its properties.

What the released code computes and we do not ship (it drops nothing, or cannot run) is repeated here from the description,
so that the figures of the oracle are understood, and the difference to ours is written down.
"""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weaksam_cli.retrain.dino.query_drop import (
    Gather,
    Mode,
    dropped_of_batch,
    dropped_queries,
    gathered,
    normalised_costs,
    query_costs,
)

MODES: dict[str, Mode] = {"things": "things", "bkg": "background", "both": "both"}


@pytest.fixture(scope="module")
def cases(oracle: Any) -> Any:
    return oracle("query_drop")


def inputs(cases: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(cases["inputs"]["logits"]), torch.tensor(cases["inputs"]["labels"])


def focal(logits: Tensor, classes: Tensor) -> Tensor:
    """Focal loss (n, C) with gamma 2, alpha .25, element by element."""
    from torchvision.ops import sigmoid_focal_loss

    wanted = F.one_hot(classes, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    return sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0)


# paper_semantics_interpretation: the definition that ships


@pytest.mark.parametrize("tau", [100, 90, 80])
@pytest.mark.parametrize("group", MODES)
def test_paper_semantics_interpretation(cases: Any, group: str, tau: int) -> None:
    expected = cases["paper_semantics_interpretation"][f"{group}_{tau}"]
    logits, classes = inputs(cases)
    costs, foreground = query_costs(logits, classes), classes < 20
    values = normalised_costs(costs, foreground)
    np.testing.assert_allclose(costs, expected["bce_rowsum"], rtol=1e-6)
    np.testing.assert_allclose(values, expected["normalised"], atol=1e-6)
    found = dropped_of_batch(logits, classes, MODES[group], tau)
    assert found.nonzero().flatten().tolist() == expected["dropped_rows"]
    members = {"things": foreground, "bkg": ~foreground, "both": torch.ones_like(foreground)}[group]
    above = values > expected["cut"] + 1e-7  # the cut is the value that stays
    assert (above & members).nonzero().flatten().tolist() == expected["dropped_rows"]


# live_cuda_path: what is released drops nothing


def test_live_cuda_path(cases: Any) -> None:
    live = cases["live_cuda_path"]
    logits, classes = inputs(cases)
    assert float(focal(logits, classes).sum()) / _divisor(cases) == pytest.approx(live["loss"], rel=1e-5)
    assert live["returned_index"] == -1
    assert not dropped_of_batch(logits, classes, "off", 90).any()


def _divisor(cases: Any) -> float:
    """Of the loss in the oracle: its average factor is the number of foreground queries."""
    return float((inputs(cases)[1] < 20).sum())


# elementwise_py_path: single elements of the loss, not queries


def test_elementwise_py_path(cases: Any) -> None:
    released = cases["elementwise_py_path"]
    elements = focal(*inputs(cases)).flatten()
    cut = elements.sort(descending=True).values[int(len(elements) * released["partition"])]
    kept = torch.where(elements > cut, 0.0, elements)
    assert float(elements.sum()) / _divisor(cases) == pytest.approx(released["loss_no_drop"], rel=1e-5)
    assert float(kept.sum()) / _divisor(cases) == pytest.approx(released["loss_drop"], rel=1e-5)


def test_cpu_forward_error(cases: Any) -> None:
    """The released loss cannot run on a processor; ours is the same on every device."""
    assert "unexpected keyword argument" in cases["cpu_forward_error"]


# commented_variant_A: the top tenth of the foreground by focal loss


def test_commented_variant_a(cases: Any) -> None:
    told = cases["commented_variant_A_foreground_top10pct"]
    logits, classes = inputs(cases)
    foreground = (classes < 20).nonzero().flatten()
    rows = focal(logits, classes).sum(dim=1)[foreground]
    np.testing.assert_allclose(rows, told["result"]["foreground_focal_rowsum"], rtol=1e-5)
    cut = rows.sort(descending=True).values[int(len(rows) * told["partition"])]
    assert float(cut) == pytest.approx(told["result"]["cut"], rel=1e-5)
    above = (rows > cut).nonzero().flatten()
    assert above.tolist() == told["result"]["indices_in_foreground_list"]
    assert foreground[above].tolist() == told["intended_rows"]
    assert told["result"]["rows_actually_zeroed"] == []
    # By cross-entropy, as the paper says, it is another query than by focal loss.
    assert dropped_of_batch(logits, classes, "things", 90).nonzero().flatten().tolist() == [22]


# commented_variant_B: the top hundredth of all queries by "normalised" cross-entropy


def variant_b(logits: Tensor, classes: Tensor, part: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums, normalised sums, cut and dropped rows.

    The fragment writes the background's minimum over the foreground's sums, in place, and divides the foreground by a
    difference of unlike things: its largest sum, and the least *normalised* value.
    """
    sums = query_costs(logits, classes).clone()
    foreground = classes < logits.shape[1]
    own = sums[foreground].clone()
    sums[foreground] = sums[~foreground].min()
    values = (sums - sums.min()) / (sums.max() - sums.min())
    values[foreground] = (own - own.min()) / (own.max() - values.min())
    cut = values.sort(descending=True).values[int(len(values) * part)]
    return sums, values, cut, (values > cut).nonzero().flatten()


def test_commented_variant_b(cases: Any) -> None:
    told = cases["commented_variant_B_normalised_bce"]
    sums, values, cut, dropped = variant_b(*inputs(cases), told["part"])
    np.testing.assert_allclose(sums, told["result"]["bce_rowsum"], rtol=1e-6)
    np.testing.assert_allclose(values, told["result"]["normalised"], atol=1e-6)
    assert float(cut) == pytest.approx(told["result"]["cut"])
    assert dropped.tolist() == told["result"]["dropped_rows"] == []


def test_commented_variant_b_of_300_queries(cases: Any) -> None:
    told = cases["commented_variant_B_300_queries"]
    random = np.random.RandomState(11)
    logits = torch.from_numpy(np.float32(random.randn(300, 20) * 1.5 - 2))
    foreground, classes = random.choice(300, 60, replace=False), random.randint(0, 20, 60)
    assert foreground.tolist() == told["fg"]
    assert classes.tolist() == told["classes"]
    labels = torch.full((300,), 20)
    labels[torch.from_numpy(foreground)] = torch.from_numpy(classes)
    _, _, cut, dropped = variant_b(logits, labels, 0.01)
    assert float(cut) == pytest.approx(told["cut"], rel=1e-5)
    assert dropped.tolist() == told["dropped_rows"]
    # Ours drops as many at tau 99, and weighs the foreground as the paper says.
    assert int(dropped_of_batch(logits, labels, "both", 99).sum()) == 3


# l1_loss: what the released index does


def released_l1(cases: Any, index: Any, *, drop: bool) -> float:
    """The released rule: with the drop on, the loss of the indexed queries is zeroed, unless the index is -1."""
    loss = F.l1_loss(torch.tensor(cases["pred"]), torch.tensor(cases["target"]), reduction="none")
    if drop:
        if index == -1:
            return float(loss.sum())
        loss[index] = 0
    return float(loss.sum())


def test_l1_loss(cases: Any) -> None:
    told = cases["l1_loss"]
    assert released_l1(told, -1, drop=True) == told["ind_minus1"]
    assert released_l1(told, None, drop=False) == told["drop_false"]
    assert released_l1(told, None, drop=True) == told["ind_none_drop_true"]
    assert released_l1(told, torch.tensor([1]), drop=True) == told["ind_tensor_one"]
    with pytest.raises(RuntimeError) as error:
        released_l1(told, torch.tensor([0, 1]), drop=True)
    assert f"RuntimeError: {error.value}" == told["ind_tensor_two"]


# properties


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("mode", ["off", *MODES.values()])
def test_few_queries(count: int, mode: Mode) -> None:
    costs = torch.arange(count, dtype=torch.float32)
    for foreground in (torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)):
        dropped = dropped_queries(costs, foreground, mode, 50)
        full = mode == "both" or (mode == "things") == bool(foreground.all() and count)
        expected = count // 2 if full and mode != "off" and count else 0
        assert dropped.tolist() == [index >= count - expected for index in range(count)]


def test_fewer_than_ten_things_lose_none_at_90() -> None:
    costs = torch.arange(30, dtype=torch.float32)
    assert not dropped_queries(costs, costs < 9, "things", 90).any()
    assert dropped_queries(costs, costs < 10, "things", 90).nonzero().flatten().tolist() == [9]


def test_equal_values_at_the_cut_stay() -> None:
    costs = torch.tensor([3.0, 3.0, 3.0, 1.0, 5.0])
    dropped = dropped_queries(costs, torch.ones(5, dtype=torch.bool), "things", 60)
    assert dropped.tolist() == [False, False, False, False, True]


values = st.lists(st.tuples(st.floats(0, 100, width=32), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(rows=values, mode=st.sampled_from(list(MODES.values())), tau=st.integers(1, 100))
def test_at_most_the_share_is_dropped_and_only_of_the_group(
    rows: list[tuple[float, bool]], mode: Mode, tau: int
) -> None:
    costs = torch.tensor([cost for cost, _ in rows])
    foreground = torch.tensor([thing for _, thing in rows])
    dropped = dropped_queries(costs, foreground, mode, tau)
    group = {"things": foreground, "background": ~foreground, "both": torch.ones_like(foreground)}[mode]
    assert not (dropped & ~group).any()
    assert int(dropped.sum()) <= (100 - tau) * int(group.sum()) // 100
    for members in (foreground, ~foreground):
        kept, gone = costs[members & group & ~dropped], costs[members & dropped]
        assert not len(gone) or not len(kept) or float(gone.min()) >= float(kept.max())


def test_a_batch_over_several_processes_is_one_batch() -> None:
    """Each process gets its own rows of what all of them together drop."""
    rng = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(60, 5, generator=rng), torch.randint(0, 6, (60,), generator=rng)
    together = dropped_of_batch(logits, classes, "both", 80)
    first, second = slice(0, 23), slice(23, 60)
    tables = [
        torch.stack([query_costs(logits[part], classes[part]), (classes[part] < 5).float()], dim=1)
        for part in (first, second)
    ]
    for part, other in ((first, tables[1]), (second, tables[0])):
        with_other: Gather = partial(lambda below, own: torch.cat([own, below]), other)
        found = dropped_of_batch(logits[part], classes[part], "both", 80, with_other)
        assert torch.equal(found, together[part])


def _gathered_by(rank: int, store: str, found: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    found.put((rank, gathered(torch.full((2 + rank, 2), float(rank))).tolist()))
    torch.distributed.destroy_process_group()


def test_gathering_over_processes(tmp_path: Path) -> None:
    assert torch.equal(gathered(torch.ones(2, 2)), torch.ones(2, 2))
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    workers = [
        context.Process(target=_gathered_by, args=(rank, str(tmp_path / "store"), found)) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    rows = dict(found.get() for _ in workers)
    for worker in workers:
        worker.join()
    assert rows == {0: [[0.0, 0.0]] * 2 + [[1.0, 1.0]] * 3, 1: [[1.0, 1.0]] * 3 + [[0.0, 0.0]] * 2}
