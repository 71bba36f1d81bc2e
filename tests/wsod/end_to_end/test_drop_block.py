from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.wsod.end_to_end.drop_block import ConcreteDropBlock, block_mask, masked, sample_drops
from weaksam_cli.wsod.end_to_end.recipe import DropBlockSettings


def test_drops_come_with_their_probability() -> None:
    torch.manual_seed(0)
    for probability in (0.0333, 0.3, 0.9):
        drops = sample_drops(torch.full((200_000,), probability), 0.01)
        assert set(drops.unique().tolist()) == {0.0, 1.0}
        assert float(drops.mean()) == pytest.approx(probability, abs=0.005)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (1.0, 1.0)])
def test_sure_drops_are_finite(probability: float, expected: float) -> None:
    torch.manual_seed(0)
    probabilities = torch.full((1000,), probability, requires_grad=True)
    drops = sample_drops(probabilities, 0.01)
    drops.sum().backward()
    assert bool((drops == expected).all())
    assert probabilities.grad is not None and torch.isfinite(probabilities.grad).all()


def test_the_gradient_is_that_of_the_gumbel_softmax() -> None:
    """Against torch's own two-class softmax: the expected gradient, at a temperature where it is smooth."""
    probabilities = torch.full((400_000,), 0.2, requires_grad=True)
    torch.manual_seed(0)
    sample_drops(probabilities, 0.7).mean().backward()
    other = torch.full((400_000,), 0.2, requires_grad=True)
    logits = torch.stack([other, 1 - other]).log()
    torch.nn.functional.gumbel_softmax(logits, tau=0.7, hard=True, dim=0)[0].mean().backward()
    assert probabilities.grad is not None and other.grad is not None
    assert float(other.grad.sum()) > 0.5
    assert float(probabilities.grad.sum()) == pytest.approx(float(other.grad.sum()), rel=0.01)


@pytest.mark.parametrize(
    ("block", "rows", "columns"),
    [(1, [3], [2]), (3, [2, 3, 4], [1, 2, 3]), (5, [1, 2, 3, 4, 5], [0, 1, 2, 3, 4])],
)
def test_blocks_around_drops(block: int, rows: list[int], columns: list[int]) -> None:
    drops = torch.zeros(2, 7, 7)
    drops[0, 3, 2] = 1
    expected = torch.ones(2, 7, 7)
    for row in rows:
        expected[0, row, columns] = 0
    assert torch.equal(block_mask(drops, block), expected)


def test_blocks_end_at_the_border() -> None:
    drops = torch.zeros(1, 7, 7)
    drops[0, 0, 6] = 1
    hidden = torch.nonzero(block_mask(drops, 3)[0] == 0).tolist()
    assert hidden == [[0, 5], [0, 6], [1, 5], [1, 6]]


@given(st.integers(1, 7), st.integers(0, 2**31))
def test_the_mean_scale_is_kept(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(n, 7, 7, generator=generator) < 0.7).float()
    found = masked(torch.ones(n, 3, 7, 7), mask)
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(found[:, 0] == 0, mask == 0)


def test_the_scale_is_over_all_rois() -> None:
    mask = torch.ones(2, 7, 7)
    mask[0] = 0
    found = masked(torch.ones(2, 1, 7, 7), mask)
    assert not found[0].any()
    assert torch.equal(found[1], torch.full((1, 7, 7), 2.0))


def test_everything_hidden_is_zero_without_nan() -> None:
    features = torch.randn(2, 3, 7, 7, requires_grad=True)
    mask = torch.zeros(2, 7, 7, requires_grad=True)
    found = masked(features, mask)
    found.sum().backward()
    assert not found.any()
    assert features.grad is not None and mask.grad is not None
    assert torch.isfinite(features.grad).all() and torch.isfinite(mask.grad).all()


def test_float16_features_keep_their_type() -> None:
    mask = torch.ones(2000, 7, 7)  # more cells than float16 can count
    mask[0, 0, 0] = 0
    found = masked(torch.ones(2000, 1, 7, 7, dtype=torch.float16), mask)
    assert found.dtype == torch.float16
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_every_number_of_rois(n: int) -> None:
    torch.manual_seed(n)
    block = ConcreteDropBlock(DropBlockSettings(), 4)
    pooled = torch.randn(n, 4, 7, 7)
    found = block.train()(pooled)
    assert found.shape == pooled.shape and torch.isfinite(found).all()
    assert all(torch.isfinite(value).all() for value in block.state_dict().values())
    assert block.eval()(pooled) is pooled


def test_the_expected_share_is_hidden() -> None:
    """With logits of 0 the probability of a drop is gamma / 2; a cell is hidden by any drop within its block."""
    torch.manual_seed(0)
    block = ConcreteDropBlock(DropBlockSettings(gamma=0.06), 4).train()
    with torch.no_grad():
        for layer in block.parameters():
            layer.zero_()
        pooled = torch.ones(4000, 4, 7, 7)
        found = block(pooled)
    centres = torch.nn.functional.avg_pool2d(torch.ones(1, 1, 7, 7), 3, 1, 1)[0, 0] * 9
    expected = 1 - (1 - 0.03) ** centres
    assert torch.allclose((found[:, 0] == 0).float().mean(dim=0), expected, atol=0.02)
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-4)


def test_probabilities_stay_below_gamma() -> None:
    torch.manual_seed(0)
    block = ConcreteDropBlock(DropBlockSettings(gamma=0.2), 4).train()
    found = block.probabilities(torch.randn(50, 4, 7, 7) * 10).detach()
    assert found.dtype == torch.float32 and found.shape == (50, 7, 7)
    assert 0 <= float(found.min()) < 0.01
    assert float(found.max()) == pytest.approx(0.2, abs=1e-4)


def test_where_the_gradient_goes() -> None:
    torch.manual_seed(0)
    block = ConcreteDropBlock(DropBlockSettings(temperature=1.0), 4).train()
    pooled = torch.randn(6, 4, 7, 7, requires_grad=True)
    found = block(pooled)
    (found * torch.randn(6, 4, 7, 7)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert pooled.grad is not None
    # The mask network sees the features as constants: hidden cells have no way back to them.
    hidden = (found == 0).all(dim=1, keepdim=True).expand_as(pooled)
    assert hidden.any() and not pooled.grad[hidden].any() and pooled.grad[~hidden].all()


def test_published_initial_weights() -> None:
    torch.manual_seed(0)
    block = ConcreteDropBlock(DropBlockSettings(), 64)
    deviations = [
        float(layer.weight.detach().std()) for layer in block.modules() if isinstance(layer, torch.nn.Conv2d)
    ]
    assert deviations == pytest.approx([(2 / (64 * 9)) ** 0.5, (2 / 18) ** 0.5, 1.0], rel=0.3)
