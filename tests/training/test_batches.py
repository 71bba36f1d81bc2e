"""Batches are functions of (seed, iteration)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.training.batches import (
    EpochSampler,
    augmentation_rng,
    generator_of,
    in_threads,
    sampled,
    step_seed,
)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 12), batch=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_every_epoch_shows_every_image_once(size: int, batch: int, seed: int) -> None:
    sampler = EpochSampler(size, batch, seed)
    seen = [index for iteration in range(2 * size) for index in sampler.indices(iteration)]
    for epoch in range(len(seen) // size):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_order_differs_between_epochs_and_seeds() -> None:
    a, b = EpochSampler(50, 50, 0), EpochSampler(50, 50, 1)
    assert a.indices(0) != a.indices(1)
    assert a.indices(0) != b.indices(0)
    assert a.indices(1) == EpochSampler(50, 50, 0).indices(1)


def test_random_numbers_of_neighbours_differ() -> None:
    values = {augmentation_rng(0, i, p).random() for i in range(5) for p in range(5)}
    assert len(values) == 25
    assert len({step_seed(0, i) for i in range(100)} | {step_seed(1, i) for i in range(100)}) == 200
    assert all(0 <= step_seed(7, i) < 2**63 for i in range(100))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (0, 7), (5, 7), (6, 7)])
def test_workers_do_not_change_the_batches(workers: int, start: int, stop: int) -> None:
    def load(iteration: int) -> list[dict[str, Any]]:
        time.sleep(0.002 * (iteration % 3))
        return [{"iteration": iteration}]

    found = in_threads(load, workers)(start, stop)
    assert [batch[0]["iteration"] for batch in found] == list(range(start, stop))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_loader_arrives(workers: int) -> None:
    def load(iteration: int) -> list[dict[str, Any]]:
        if iteration == 2:
            raise OSError("unreadable")
        return []

    data = in_threads(load, workers)(0, 10)
    assert [next(data), next(data)] == [[], []]
    with pytest.raises(OSError, match="unreadable"):
        next(data)


def test_items_are_told_where_they_stand() -> None:
    sampler = EpochSampler(3, 2, seed=1)
    first, second = sampled(sampler, lambda *place: place)(1, 3)
    assert first == [(1, position, index) for position, index in enumerate(sampler.indices(1))]
    assert [place[0] for place in second] == [2, 2]


def first_draws(seed: int, *words: str) -> list[int]:
    return generator_of(seed, *words).integers(0, 1 << 30, 4).tolist()


def test_keys_that_end_alike_draw_differently() -> None:
    """Photographs are called .jpg: a seed made of the last bytes of a name was the same for all of them."""
    keys = ["2008_000021.jpg", "2008_000022.jpg", "a/2008_000021.jpg", "x0000001.jpg", "y0000001.jpg"]
    assert len({tuple(first_draws(0, key)) for key in keys}) == len(keys)


def test_seed_and_every_word_decide() -> None:
    drawn = [first_draws(0, "a"), first_draws(1, "a"), first_draws(0, "a", "b"), first_draws(0, "ab")]
    assert len({tuple(item) for item in drawn}) == 4
    assert first_draws(7, "a", "b") == first_draws(7, "a", "b")


def test_the_numbers_are_the_same_on_every_machine() -> None:
    np.testing.assert_allclose(generator_of(0, "000005").random(2), [0.3372531754279716, 0.7601546793160876])
