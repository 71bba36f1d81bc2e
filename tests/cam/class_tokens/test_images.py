"""Which images a step sees, and how they look."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cam.class_tokens.helpers import FAST, split
from weaksam_cli.cam.class_tokens.images import WHOLE, Plan, TrainingImages, seeded
from weaksam_cli.cam.class_tokens.method import AugmentSettings
from weaksam_cli.cam.class_tokens.training import image_wise_map
from weaksam_cli.engine.processes import Processes
from weaksam_cli.errors import UserError


@pytest.mark.parametrize(
    ("n_images", "batch_size", "steps", "whole"),
    [(1, 1, 1, 1), (2, 2, 1, 1), (6, 2, 3, 3), (7, 2, 3, 4), (7, 6, 1, 2)],
)
def test_an_epoch_is_whole_batches_in_its_own_order(
    n_images: int, batch_size: int, steps: int, whole: int
) -> None:
    plan = Plan(n_images, batch_size, seed=3)
    shown = [
        [ticket for step in range(steps) for ticket in plan.training_batch(epoch * steps + step)]
        for epoch in range(2)
    ]
    assert (plan.steps, plan.whole_batches) == (steps, whole)
    for epoch, tickets in enumerate(shown):
        assert len(tickets) == steps * batch_size
        assert {item for item, _ in tickets} == {epoch}
        assert len({index for _, index in tickets}) == len(tickets)
    everything = [ticket for batch in plan.all_images() for ticket in batch]
    assert everything == [(WHOLE, index) for index in range(n_images)]
    if n_images == 7 and batch_size == 2:
        assert [index for _, index in shown[0]] != [index for _, index in shown[1]]


def test_random_numbers_inside_are_a_function_of_the_seed_and_outside_go_on() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random_sample()), float(torch.rand(1))

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw(), draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = draw()
    with seeded(1, 2):
        inside = draw()
    assert (first, draw()) == expected
    with seeded(1, 2):
        assert draw() == inside
    with seeded(1, 3):
        assert draw() != inside


def test_a_view_depends_on_seed_epoch_and_image_alone(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"augment": AugmentSettings()})  # the published augmentation
    labels = split(tmp_path, 2, 2)
    one, other = (TrainingImages(labels, labels.keys, settings, seed=5) for _ in range(2))
    views = {ticket: one[ticket][1] for ticket in [(0, 0), (1, 0), (0, 1), (WHOLE, 0)]}
    for ticket, view in reversed(views.items()):
        assert isinstance(view, torch.Tensor)
        assert view.shape == (3, 16, 16)
        assert view.dtype is torch.float32
        again = other[ticket][1]
        assert isinstance(again, torch.Tensor)
        assert torch.equal(view, again)
    assert not torch.equal(views[0, 0], views[1, 0])  # type: ignore[arg-type]
    elsewhere = TrainingImages(labels, labels.keys, settings, seed=6)[0, 0][1]
    assert not torch.equal(views[0, 0], elsewhere)  # type: ignore[arg-type]


def test_a_damaged_image_is_left_out_and_told(tmp_path: Path) -> None:
    labels = split(tmp_path, 3, 2)
    (tmp_path / "1.png").write_bytes(b"nothing")
    samples = TrainingImages(labels, labels.keys, FAST.model_copy(update={"batch_size": 3}), seed=0)
    [(step, whole)] = [(shown, list(rest)) for shown, rest in samples.batches(0)(0, 1)]
    found = [step, *whole]
    assert len(found) == 2  # one step, one look at everything
    for batch in found:
        assert sorted(batch.indexes) == [0, 2]
        assert batch.views is not None
        assert len(batch.views) == 2
        assert list(batch.failed) == [1]


def test_processes_share_a_batch(tmp_path: Path) -> None:
    labels = split(tmp_path, 4, 2)
    samples = TrainingImages(labels, labels.keys, FAST.model_copy(update={"batch_size": 4}), seed=0)
    [(whole, _)] = list(samples.batches(0)(0, 1))
    parts = [next(samples.batches(0, Processes(rank, 2))(0, 1))[0] for rank in range(2)]
    assert [index for part in parts for index in part.indexes] == whole.indexes
    assert all(part.views is not None and len(part.views) == 2 for part in parts)
    with pytest.raises(UserError, match="a batch of 4 cannot be shared by 3 processes"):
        samples.batches(0, Processes(0, 3))


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[3, 2, 1]], [[1, 0, 0]], 1.0),
        ([[3, 2, 1]], [[0, 0, 1]], 1 / 3),
        ([[3, 2, 1]], [[1, 0, 1]], (1 + 2 / 3) / 2),
        ([[1, 1, 1]], [[1, 0, 0]], 1 / 3),  # of equal scores the wrong class comes first
        ([[1, 2], [5, 0]], [[1, 0], [1, 0]], 0.75),
        ([[1, 2], [5, 0]], [[0, 0], [1, 0]], 1.0),
        ([[1]], [[1]], 1.0),
        ([[1]], [[0]], 0.0),
    ],
)
def test_the_criterion(scores: list[list[float]], labels: list[list[int]], expected: float) -> None:
    found = image_wise_map(np.asarray(scores, np.float32), np.asarray(labels, bool))
    assert found == pytest.approx(expected)
