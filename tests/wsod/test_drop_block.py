from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.wsod.vgg_helpers import DROPPING, HEADS, detector_of, sample

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.training.loop import TrainingRun
from weaksam_cli.wsod.detector import Sample, fit_detector
from weaksam_cli.wsod.drop_block import Adversary, ConcreteDropBlock, block_mask, masked, sample_drops
from weaksam_cli.wsod.mist import DropBlockSettings, Mist
from weaksam_cli.wsod.settings import ScheduleSettings
from weaksam_cli.wsod.vgg_detector import VggDetector


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
    assert not any(parameter.requires_grad for parameter in block.parameters())
    block.requires_grad_(True)
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


def test_biases_learn_twice_as_fast_and_do_not_decay() -> None:
    """As published; they once had the rate and the decay of the other weights."""
    detector = detector_of(DROPPING)
    groups = Adversary(
        detector, DropBlockSettings(learning_rate=0.1, weight_decay=0.5), 10
    ).optimizer.param_groups
    found = {
        name: (group["lr"], group["weight_decay"])
        for name, parameter in detector.heads.get_submodule("drop_block").named_parameters()
        for group in groups
        if any(parameter is member for member in group["params"])
    }
    assert len(found) == 7
    assert all(value == ((0.2, 0) if name.endswith("bias") else (0.1, 0.5)) for name, value in found.items())


def test_gradient_of_the_adversary_reaches_the_mask_network_alone() -> None:
    detector = detector_of(DROPPING).train()
    adversary = Adversary(detector, DropBlockSettings(), 10)
    before = {name: item.requires_grad for name, item in detector.named_parameters()}
    with adversary.learning():
        adversary.losses([sample(12, present=(0, 2)), sample(7, 48, 64)])["adversary"].backward()
    for name, parameter in detector.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == name.startswith("heads.drop_block."), name
        assert parameter.grad is None or reached
        assert parameter.requires_grad == before[name]


def test_the_adversary_wants_the_opposite() -> None:
    detector, items = detector_of(DROPPING).train(), [sample(12, present=(0, 2))]
    torch.manual_seed(4)
    total = torch.stack(list(detector(items).values())).sum()
    torch.manual_seed(4)
    found = Adversary(detector, DropBlockSettings(loss_weight=0.01), 10).losses(items)["adversary"]
    assert float(found.detach()) == pytest.approx(-0.01 * float(total.detach()))


def test_the_adversary_learns_to_hurt() -> None:
    """The mask network climbs the detector's losses when it takes steps alone."""
    detector, items = detector_of(DROPPING, dropout=0.0).train(), [sample(40, present=(0, 2))]
    adversary = Adversary(detector, DropBlockSettings(learning_rate=0.05), 10)

    def mean_loss() -> float:
        with torch.no_grad():
            return sum(float(torch.stack(list(detector(items).values())).sum()) for _ in range(20)) / 20

    before = mean_loss()
    for _ in range(30):
        adversary.optimizer.zero_grad()
        with adversary.learning():
            adversary.losses(items)["adversary"].backward()
        adversary.optimizer.step()
    assert mean_loss() > 1.02 * before


def trained(folder: Path, method: Mist, stop: int = 0, iterations: int = 3) -> VggDetector:
    """Steps of three images, two in memory at a time."""
    detector = detector_of(method)

    def progress(done: int, _: int, losses: dict[str, float]) -> None:
        if done == stop and losses:
            raise KeyboardInterrupt

    def load(iteration: int, position: int, index: int) -> Sample:
        return sample(6 + iteration + position, present=(index,))

    save = FileOps().write_atomically
    run = TrainingRun("cpu", 0, folder / "checkpoint.pt", "mist", save, progress, checkpoint_every=1)
    schedule = ScheduleSettings(
        iterations=iterations, batch_size=3, images_at_once=2, learning_rate=1e-3, warmup_iterations=0
    )
    fit_detector(detector, load, 3, schedule, run)
    return detector


FAST = Mist(heads=HEADS, drop_block=DropBlockSettings(gamma=0.2, learning_rate=0.01, warmup_iterations=0))


def test_killed_and_resumed_both_go_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", FAST).state_dict()
    for stop in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", FAST, stop)
    cut = trained(tmp_path / "cut", FAST).state_dict()
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_the_adversary_moves_its_own_weights_alone(tmp_path: Path) -> None:
    """After one step the detector is the same as with a mask network that hardly learns."""
    still = Mist(heads=HEADS, drop_block=DropBlockSettings(gamma=0.2, learning_rate=1e-30, weight_decay=0))
    moved, held = (
        trained(tmp_path / name, method, iterations=1) for name, method in (("fast", FAST), ("still", still))
    )
    for name, value in moved.state_dict().items():
        is_learnt = name.startswith("heads.drop_block.") and name.endswith(("weight", "bias"))
        assert torch.equal(value, held.state_dict()[name]) != is_learnt, name
