"""Steps in parts, and the adversary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.training.batches import in_threads
from weaksam_cli.training.loop import optimizer_step, train
from weaksam_cli.training.run import Progress, TrainingRun
from weaksam_cli.training.schedule import LearningRateSchedule
from weaksam_cli.wsod.end_to_end.trainer import Adversary


class Duel(nn.Module):
    """A weight that follows its images, and one that the adversary moves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.other = nn.Parameter(torch.ones(2))
        self.seen: list[int] = []

    def forward(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        self.seen.append(len(items))
        targets = torch.stack(list(items))
        noise = torch.rand(2)
        return {
            "near": ((self.weight - targets) ** 2).sum(1).mean(),
            "dot": (self.weight * self.other * noise).sum(),
        }

    def against(self, items: Sequence[Tensor]) -> Tensor:
        return -0.1 * torch.stack([*self(items).values()]).sum()


def run_in(folder: Path, progress: Progress | None = None) -> TrainingRun:
    save = FileOps().write_atomically
    return TrainingRun("cpu", 0, folder / "checkpoint.pt", "duel", save, progress, checkpoint_every=1)


def load(iteration: int) -> list[Any]:
    generator = torch.Generator().manual_seed(iteration)
    return list(torch.randn(7, 2, generator=generator))


def run(folder: Path, *, at_once: int, iterations: int = 6, adversary: bool = True, stop: int = 0) -> Duel:
    model = Duel()
    optimizer = torch.optim.Adam([model.weight], lr=0.05)
    against = None
    if adversary:
        against = Adversary(
            torch.optim.Adam([model.other], lr=0.02),
            LearningRateSchedule(iterations, milestones=(3,), gamma=3.0),
            model.against,
        )

    def progress(done: int, _: int, losses: dict[str, float]) -> None:
        if done == stop and losses:
            raise KeyboardInterrupt

    train(
        model,
        optimizer,
        in_threads(load),
        LearningRateSchedule(iterations),
        run_in(folder, progress),
        images_at_once=at_once,
        step=optimizer_step if against is None else against.after(),
        extras={} if against is None else {"adversary": against.optimizer},
    )
    return model


@pytest.mark.parametrize("at_once", [1, 2, 6, 7, 20])
def test_images_come_in_parts_and_every_image_weighs_the_same(tmp_path: Path, at_once: int) -> None:
    """The noise is drawn anew for every part, so it is left out here."""
    model = Duel()
    with torch.no_grad():
        model.other.zero_()
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    train(
        model,
        optimizer,
        in_threads(load),
        LearningRateSchedule(1),
        run_in(tmp_path),
        images_at_once=at_once,
    )
    assert model.seen == [min(at_once, 7 - start) for start in range(0, 7, at_once)]
    torch.testing.assert_close(model.weight.detach(), 0.2 * torch.stack(load(0)).mean(0))


def test_the_adversary_moves_its_own_weights_alone_and_up(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", at_once=7, iterations=1, adversary=False)
    duel = run(tmp_path / "duel", at_once=7, iterations=1)
    assert torch.equal(alone.weight, duel.weight)
    assert torch.equal(alone.other, torch.ones(2))
    # The loss grows where the other weight takes the sign of the first, by Adam's first step.
    torch.testing.assert_close(duel.other.detach(), 1 + 0.02 * duel.weight.detach().sign())
    assert all(item.requires_grad for item in duel.parameters())


def test_killed_and_resumed_both_go_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", at_once=2)
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", at_once=2, stop=stop)
    cut = run(tmp_path / "cut", at_once=2)
    assert torch.equal(whole.weight, cut.weight)
    assert torch.equal(whole.other, cut.other)


def test_an_adversary_that_has_nothing_to_say_changes_nothing(tmp_path: Path) -> None:
    model = Duel()
    silent = Adversary(torch.optim.Adam([model.other]), LearningRateSchedule(1), lambda _: torch.zeros(()))
    train(
        model,
        torch.optim.Adam([model.weight]),
        in_threads(load),
        LearningRateSchedule(1),
        run_in(tmp_path),
        images_at_once=3,
        step=silent.after(),
    )
    assert torch.equal(model.other, torch.ones(2))
