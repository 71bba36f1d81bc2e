"""Which images a step sees, and other draws: functions of (seed, iteration) or (seed, name), the same after a resume."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam_cli.engine.processes import ALONE, Processes

Batches = Callable[[int, int], Generator[Any, None, None]]
"""From the first iteration and the end to the batches of those between, in order; each depends on its iteration alone."""

LoadItem = Callable[[int, int, int], Any]
"""From iteration, position in the batch and index of an image to the item that the model takes."""

_ORDER, _AUGMENTATION, _STEP = 0, 1, 2


@dataclass(frozen=True)
class EpochSampler:
    """Images in a new random order for each epoch; epochs follow each other without a gap.

    Attributes:
        size: number of images, at least 1.
        batch_size: images of a step.
        seed: decides every order.
    """

    size: int
    batch_size: int
    seed: int

    def indices(self, iteration: int) -> list[int]:
        """Indexes of the images of a step, in order."""
        first = iteration * self.batch_size
        places = range(first, first + self.batch_size)
        orders = {epoch: self._order(epoch) for epoch in {place // self.size for place in places}}
        return [int(orders[place // self.size][place % self.size]) for place in places]

    def _order(self, epoch: int) -> Any:
        return np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.size)


def generator_of(seed: int, *words: str) -> np.random.Generator:
    """A generator that the seed and all of the words decide, on every machine and in whatever order images are done.

    The words are hashed whole (SHA-256), so two keys that end or begin alike draw differently.

    Args:
        seed: of the run, 0 or more.
        words: at least one, such as the key of an image and what is drawn for it; no word holds a NUL.
    """
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])


def augmentation_rng(seed: int, iteration: int, position: int) -> np.random.Generator:
    """Random numbers of one image of one step."""
    return np.random.default_rng((seed, _AUGMENTATION, iteration, position))


def step_seed(seed: int, iteration: int, place: int = 0) -> int:
    """Seed of torch's own random numbers (samplers, dropout) in one step, from the image at `place` of its batch on.

    So a part of a batch draws the same, whether the parts are done one after the other or by several processes.
    """
    words = (seed, _STEP, iteration, place) if place else (seed, _STEP, iteration)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def sampled(
    sampler: EpochSampler, load_item: LoadItem, workers: int = 0, processes: Processes = ALONE
) -> Batches:
    """Batches of a sampler's images, of several processes this one's share; `load_item` is a pure function of its arguments.

    Raises:
        UserError: the batches cannot be shared evenly.
    """
    places = processes.share(sampler.batch_size)

    def load(iteration: int) -> list[Any]:
        indices = sampler.indices(iteration)
        return [load_item(iteration, position, indices[position]) for position in places]

    return in_threads(load, workers)


def in_threads(load: Callable[[int], Any], workers: int = 0) -> Batches:
    """Batches by a function of the iteration; the same for any number of workers.

    With workers, threads load that many iterations ahead (decoding and resizing release Python's lock).
    """

    def batches(start: int, stop: int) -> Generator[Any, None, None]:
        if workers <= 0:
            yield from (load(iteration) for iteration in range(start, stop))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
            pending: deque[Future[Any]] = deque()
            try:
                for iteration in range(start, stop):
                    pending.append(pool.submit(load, iteration))
                    if len(pending) > workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    return batches
